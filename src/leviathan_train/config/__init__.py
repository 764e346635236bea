"""The Axolotl YAML: load, redact, known keys, requirements, and what a change does to a resume."""
