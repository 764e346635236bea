"""The name under which a config's `plugins` has the plugin; see `trainer/plugin.py`."""

from leviathan_train.config.arguments import LeviathanArgs
from leviathan_train.trainer.plugin import LeviathanPlugin

__all__ = ["LeviathanArgs", "LeviathanPlugin"]
