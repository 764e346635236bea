"""Axolotl's own validation of a config, in a process of its own: its import takes seconds.

    python -m leviathan_train.jobs.validate CONFIG_JSON

reads `{"config": {...}, "capabilities": {...} or null, "rows_of": PATH or null}` from a file, or
from stdin for `-`, and writes `{"errors": [...], "warnings": [...]}`, one line of text each, to
stdout; with `rows_of`, the config's file, also `"rows"`: what a survey of the data saw.
`capabilities` are those of the GPU to judge for, e.g. `{"compute_capability": "sm_86",
"bf16": true, "tf32": true, "fp8": false, "n_gpu": 1}`; without them, of this machine.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from leviathan_train.config.lines import path_in, shown


class _Heard(logging.Handler):
    """Keeps the text of each warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = one_line(record.getMessage())
        if record.levelno == logging.WARNING and line not in self.lines:
            self.lines.append(line)


def validate(
    values: Mapping[str, Any], capabilities: Mapping[str, Any] | None = None
) -> dict[str, list[str]]:
    """What Axolotl objects to in a config.

    Plugins are registered as `axolotl train` does, so their keys and validators count.

    Args:
        values: the config as written, overrides applied.
        capabilities: of the GPU to judge for; by default this machine's.
    """
    from axolotl.cli.config import gpu_capabilities, prepare_plugins
    from axolotl.integrations.base import PluginManager
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault
    from pydantic import ValidationError

    heard = _Heard()
    logging.getLogger("axolotl").addHandler(heard)  # the imports above set up its logging
    here, environment = gpu_capabilities()
    cfg = DictDefault(dict(values))
    errors: list[str] = []
    try:
        prepare_plugins(cfg)
        loaded = PluginManager.get_instance().plugins
        errors += [
            f"plugins: {name} cannot be imported"
            for name in values.get("plugins") or []
            if name.replace(":", ".") not in loaded  # 0.21 takes both and keeps the dotted name
        ]
        if not errors:
            validate_config(cfg, dict(capabilities or here), environment)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        errors += _of_datasets(error.title, values) or describe(found, values)
    except Exception as error:  # validators also raise DeprecationWarning and stumble
        plain = isinstance(error, DeprecationWarning | ValueError) and str(error)
        errors.append(one_line(str(error) if plain else f"{type(error).__name__}: {error}"))
    return {"errors": errors, "warnings": heard.lines}


def _of_datasets(title: str, values: Mapping[str, Any]) -> list[str]:
    """The errors of each entry, where a dataset's model (by its name) was tried on its own."""
    from axolotl.utils.schemas import datasets
    from pydantic import ValidationError

    model = getattr(datasets, title, None)
    if model is None:
        return []
    lines: list[str] = []
    for index, entry in enumerate(values.get("datasets") or []):
        try:
            model(**entry)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            lines += [f"datasets[{index}].{line}" for line in describe(found, entry)]
    return lines


def describe(found: Iterable[Mapping[str, Any]], values: Any) -> list[str]:
    """Pydantic's errors as `key: message` lines, one for each key."""
    lines: dict[str, list[str]] = {}
    for error in found:
        text = one_line(str(error["msg"]).removeprefix("Value error, "))
        key = shown(path_in(values, error["loc"], is_missing=error["type"] == "missing"))
        if text not in lines.setdefault(key, []):
            lines[key].append(text)
    return [
        f"{key}: {'; or '.join(texts)}" if key else text
        for key, texts in lines.items()
        for text in ([""] if key else texts)
    ]


def one_line(text: str) -> str:
    """Text without line breaks and double spaces."""
    return " ".join(text.split())


def main() -> None:
    (name,) = sys.argv[1:]
    text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    document = json.loads(text)
    # Whatever libraries print while they are imported goes to stderr.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with contextlib.redirect_stdout(sys.stderr):
        result: dict[str, Any] = dict(validate(document["config"], document.get("capabilities")))
        if path := document.get("rows_of"):
            from leviathan_train.jobs.survey import survey_rows

            result["rows"] = survey_rows(document["config"], path)
    with answer:
        json.dump(result, answer)


if __name__ == "__main__":
    main()
