"""Where something stands in a YAML file: the line of each key, keys given twice, a lost quote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KeyPath = tuple[str | int, ...]
"""A key with its parents; numbers count the items of lists from 0."""


@dataclass(frozen=True)
class Places:
    """The lines of a file's keys, from 1.

    Attributes:
        lines: the line of each key; of one that is given twice, the last.
        twice: the keys that are given more than once, with all their lines.
    """

    lines: dict[KeyPath, int]
    twice: dict[KeyPath, list[int]]

    def line_of(self, path: KeyPath) -> int | None:
        """The line of a key, or of the nearest parent that has one."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return None


def places(path: Path) -> Places:
    """The places in a YAML file; none if it cannot be read."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    lines: dict[KeyPath, int] = {}
    twice: dict[KeyPath, list[int]] = {}

    def walk(node: Any, above: KeyPath) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*above, str(key.value))
                line = key.start_mark.line + 1
                if here in lines:
                    twice.setdefault(here, [lines[here]]).append(line)
                lines[here] = line
                walk(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                walk(value, (*above, index))

    try:
        walk(yaml.compose(path.read_text(encoding="utf-8"), Loader=loader), ())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return Places({}, {})
    return Places(lines, twice)


def shown(path: KeyPath) -> str:
    """A key with its parents as people write it, e.g. `datasets[0].path`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def path_in(value: Any, location: KeyPath, *, is_missing: bool) -> KeyPath:
    """Where in `value` pydantic found an error.

    The branches of a union (`bf16.bool`, `datasets.0.SFTDataset.path`) are no keys: of a
    location, only what stands in `value` is kept, and the last name of a missing key.
    """
    path: KeyPath = ()
    for part in location:
        has_item = isinstance(value, list | tuple) and part in range(len(value))
        if has_item or (isinstance(value, Mapping) and part in value):
            path, value = (*path, part), value[part]
    return (*path, location[-1]) if is_missing else path


def broken_at(error: Any) -> tuple[int, int] | None:
    """Line and column, from 1, of what a YAML error is about; None if it tells no place.

    A quote that is never closed is noticed at the end of the file, and a key without its colon in
    the line below: where they begin is what has to be found.
    """
    context = str(getattr(error, "context", None))
    is_later = "quoted scalar" in context or "simple key" in context
    mark = getattr(error, "context_mark" if is_later else "problem_mark", None)
    return (mark.line + 1, mark.column + 1) if mark else None
