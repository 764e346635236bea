"""Whether the data files of a config can be trained on, told before anything heavy starts."""

from __future__ import annotations

import glob
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leviathan_train.config import rows
from leviathan_train.config.load import Config, entries, nearest, normalise
from leviathan_train.config.row_types import TOKENISED, Want, fitting, messages_of, wanted
from leviathan_train.config.rows import DataError, Row
from leviathan_train.system.units import count

FIRST = 200
"""Rows of each file that are always read."""
_FILES = {".json", ".jsonl", ".csv", ".txt", ".parquet", ".arrow"}


@dataclass(frozen=True)
class Source:
    """A data file of an entry of `datasets`.

    Attributes:
        key: the entry, as the config writes it: `datasets[0]`.
        entry: the entry itself.
        kind: see `rows.kind_of`.
    """

    key: str
    entry: Mapping[str, Any]
    file: Path
    kind: str


def faults(config: Config, seconds: float | None = None) -> Iterator[DataError]:
    """What is wrong with the local data files, at most one fault a file.

    Args:
        seconds: how long may be read, all files together, after the first rows of each; None
            reads all. With 0, files that need a library are left out.
    """
    found = list(sources(config))
    until = None if seconds is None else time.monotonic() + seconds
    counts: list[tuple[str, int]] = []
    for source in found:
        if seconds == 0 and source.kind in rows.BINARY:
            continue
        try:
            if number := _check(source, config, until):
                counts.append((source.key, number))
        except DataError as fault:
            yield fault
        except OSError as error:
            yield DataError(f"{source.file} cannot be read: {error.strerror}.", "Check it.")
    if len(counts) == len(found):
        yield from _none_left(config, counts)


def _none_left(config: Config, counts: Sequence[tuple[str, int]]) -> Iterator[DataError]:
    """A `val_set_size` that holds back every row, where all rows of each entry were counted."""
    held = normalise(config.values.get("val_set_size"))
    named = {f"datasets[{index}]" for _, index, _ in entries(config.values, "datasets")}
    total = sum(rows_there for key, rows_there in counts if key in named)
    is_known = named and named <= {key for key, _ in counts}
    if is_known and isinstance(held, int) and held > 1 and total <= held:
        there = count(total, "row")
        yield DataError(
            f"{config.at('val_set_size')}: {held} leaves none to train on of {there}.",
            "Lower it, or give a share such as 0.05.",
        )


def sources(config: Config) -> Iterator[Source]:
    """The data files of `datasets` and `test_datasets` that lie on this machine."""
    for key, index, entry in entries(config.values, "datasets", "test_datasets"):
        if entry.get("path"):
            for file, kind in _files(entry):
                yield Source(f"{key}[{index}]", entry, file, kind)


def _files(entry: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """The files of an entry that lie here, and how each is read."""
    name, ds_type = str(entry["path"]), entry.get("ds_type")
    path, named = Path(name), entry.get("data_files")
    if path.is_file():
        yield path, rows.kind_of(name, ds_type)
    elif named and (path.is_dir() or name in rows.KINDS):
        kind = ds_type or (name if name in rows.KINDS else rows.kind_of(name, None))
        for pattern in named if isinstance(named, list) else [named]:
            for match in sorted(glob.glob(str(pattern))):
                if Path(match).is_file():
                    yield Path(match), kind
    elif path.is_dir() and not (path / "state.json").exists():
        for file in sorted(found for found in path.iterdir() if found.suffix in _FILES):
            yield file, rows.kind_of(file.name, None)


def _check(source: Source, config: Config, until: float | None) -> int | None:
    """Read a file's rows and compare them with what their type wants.

    Returns:
        How many there are to train on; None if that cannot be told: not all were read, they are
        a part of the entry, or their type may make several of one or none.

    Raises:
        DataError: what was found first.
    """
    want = None if _has_strangers(config) else wanted(source.entry, config.values)
    columns: dict[str, None] = {}
    first: Row | None = None
    number, is_whole = 0, str(source.file) == str(source.entry["path"])
    for number, row in enumerate(rows.read(source.file, source.kind), 1):
        first = first or row
        columns.update(dict.fromkeys(row.values))
        if want and columns.keys() >= TOKENISED:
            want = None
        if want and want.columns[0] in row.values:
            place = f"{source.file}, {row.place}"
            if fault := _fault_of(source, want, row):
                raise DataError(f"{place}: {fault[0]}", fault[1], place)
        if number >= FIRST and until is not None and time.monotonic() > until:
            is_whole = False
            break
    if first and want:
        _check_columns(source, want, config, columns, first)
    one_for_one = want and (want.role or len(want.columns) > 1)  # a lone text may be cut up
    return number if number and is_whole and one_for_one else None


def _has_strangers(config: Config) -> bool:
    """Whether a plugin of others may read the rows in its own way."""
    ours = ("axolotl.", "leviathan_train.")
    return any("." in name and not name.startswith(ours) for name in config.plugins)


def _check_columns(
    source: Source, want: Want, config: Config, columns: Mapping[str, Any], first: Row
) -> None:
    if all(column in columns for column in want.columns):
        return
    names = ", ".join(list(columns)[:12]) + (", ..." if len(columns) > 12 else "")
    fits = fitting(columns, first.values)
    hint = f"What would fit:  {fits}" if fits else "Rename the columns, or choose another type."
    if own := _named_column(source.entry, [one for one in want.columns if one not in columns]):
        close = nearest(own[1], columns)
        hint = f"Did you mean  {own[0]}: {close}?" if close else f"Correct  {own[0]}: {own[1]}"
    only = next(iter(columns))
    if source.kind == "csv" and len(columns) == 1 and any(char in only for char in ";\t|"):
        hint = "Separate the cells by commas."
    plural = "s" if len(want.columns) > 1 else ""
    raise DataError(
        f"{config.at(source.key)}: type: {want.label} wants the column{plural}"
        f" {' and '.join(want.columns)}; {source.file} has {names}.",
        hint,
    )


def _named_column(entry: Mapping[str, Any], missing: Sequence[str]) -> tuple[str, str] | None:
    """The key of an entry, or of its own format, that names one of these columns, and the name."""
    kind = entry.get("type")
    named = {**(kind if isinstance(kind, Mapping) else {}), **entry}
    return next(
        (
            (str(key), str(value))
            for key, value in named.items()
            if "field" in str(key) and str(value) in missing
        ),
        None,
    )


def _fault_of(source: Source, want: Want, row: Row) -> tuple[str, str] | None:
    """What is wrong with a row, and what to do about it; None if nothing is."""
    if want.role:
        return _fault_of_messages(want, row)
    value = row.values.get(want.answer) if want.answer and source.kind != "csv" else None
    if value is None or isinstance(value, str):
        return None
    told = {dict: "an object", list: "a list", bool: "true or false"}.get(type(value), "a number")
    return f"column {want.answer} holds {told}, not a text.", 'Write it in quotes:  "..."'


def _fault_of_messages(want: Want, row: Row) -> tuple[str, str] | None:
    (column,) = want.columns
    messages = messages_of(row.values[column])
    if messages is None:
        fits = fitting(row.values, row.values)
        hint = f"What would fit:  {fits}" if fits else "Write a list of messages there."
        return f"column {column} holds no list of messages.", hint
    if not messages:
        return f"column {column} holds no message.", "Remove the row."
    for message in messages:
        if not isinstance(message, Mapping) or message.get(str(want.role)) is None:
            keys = ", ".join(message) if isinstance(message, Mapping) else repr(message)[:40]
            hint = f'Each message is:  {{"{want.role}": "user", "{want.content}": "..."}}'
            if isinstance(message, Mapping) and {"from", "value"} <= message.keys():
                hint = "Add  message_property_mappings: {role: from, content: value}"
            return f"a message has no {want.role}; it has {keys}.", hint
    return None
