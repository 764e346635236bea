"""Options of the command line that Axolotl would misread."""

from __future__ import annotations

import ast
from collections.abc import MutableMapping, Sequence
from typing import Any


def restore_strings(cfg: MutableMapping[str, Any], arguments: Sequence[str]) -> None:
    """Put back the text of an option whose key the YAML sets to true or false.

    Axolotl 0.19 to 0.21 casts an option to the type that the YAML's value has (cli/config.py,
    `_coerce_value`), so beside `resume_from_checkpoint: true` a path becomes False, as `auto`
    does beside `bf16: false`.

    Args:
        cfg: the config as Axolotl has read it, before it is validated.
        arguments: of the command line, `--key=value`.
    """
    for argument in arguments:
        key, equals, text = argument.removeprefix("--").partition("=")
        if not equals or cfg.get(key) is not False:
            continue
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        if isinstance(value, str) and value.lower() not in {"false", "no", "off"}:
            cfg[key] = value
