"""What lives in Axolotl's process: plugin, callbacks, listener. Only Axolotl imports it."""
