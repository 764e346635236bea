"""The rows of local data files, read as Axolotl will read them, and what it could not read.

JSON, CSV and text are read here; Parquet and Arrow by a job, since their library takes half a
second to import (`jobs/columns.py`).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

JOB = "leviathan_train.jobs.columns"
_TIMEOUT = 120.0
"""Seconds for the job."""
_WHOLE = 64 << 20
"""Bytes up to which a file that is one JSON document is read: a second or two."""
_CARRIAGE_RETURN = re.compile("(?<=\r)(?!\n)")
"""Ends a line of CSV, too, as pandas reads it."""
_CLOSED = {".zst", ".xz", ".bz2", ".zip"}
"""Compressions that are not looked into."""

# As in axolotl, utils/data/shared.py, `EXTENSIONS_TO_DATASET_TYPES`.
_SUFFIXES = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".txt": "text"}


class DataError(Exception):
    """What is wrong with a data file.

    Args:
        message: the file, with the line if one is to blame, and the fault.
        hint: what to do about it.
        place: file and line of the one row that is to blame.
    """

    def __init__(self, message: str, hint: str, place: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.place = place


class _TooLargeError(Exception):
    """One JSON document that would take many seconds to read."""


@dataclass(frozen=True)
class Row:
    """One row, and where it stands: `line 7`, or `row 7` where lines say nothing."""

    place: str
    values: Mapping[str, Any]


def kind_of(name: str, ds_type: str | None) -> str:
    """How Axolotl reads a file: `json`, `csv`, `text`, `parquet` or `arrow`."""
    if ds_type:
        return ds_type
    return next((kind for suffix, kind in _SUFFIXES.items() if suffix in name), "json")


def read(file: Path, kind: str) -> Iterator[Row]:
    """The rows of a file, one after another; none of a file that cannot be looked into.

    Raises:
        DataError: it is empty, or Axolotl could not read it from here on.
        OSError: it cannot be opened.
    """
    if file.suffix in _CLOSED or kind not in KINDS:
        return
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty.", "Put rows there, or name another file.")
    count = 0
    try:
        for row in _READERS[kind](file):
            count += 1
            yield row
    except _TooLargeError:
        return
    if not count:
        raise DataError(f"{file} holds no row.", "Put rows there, or name another file.")


def _open(file: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers.

    Raises:
        DataError: one is not UTF-8.
    """
    with _open(file) as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(file, number, line, error) from None


def _not_utf8(file: Path, number: int, line: bytes, error: UnicodeDecodeError) -> DataError:
    start = "UTF-16" if line[:2] in (b"\xff\xfe", b"\xfe\xff") else "CP1252"
    return DataError(
        f"{file}, line {number} is not UTF-8: byte 0x{line[error.start]:02x} at position"
        f" {error.start + 1}.",
        f"Convert it, for example:  iconv -f {start} -t UTF-8 {shlex.quote(str(file))} >"
        f" {shlex.quote(str(file.with_name(f'utf8-{file.name}')))}",
    )


def _read_json(file: Path) -> Iterator[Row]:
    """JSON lines, a list of rows, or one object after another."""
    lines = _lines(file)
    for number, line in lines:
        text = line.strip()
        if not text:
            continue
        if number == 1 and text.startswith("["):
            yield from _read_documents(file)
            return
        try:
            value = json.loads(text)
        except ValueError as error:
            if number == 1 and text.startswith("{") and file.stat().st_size <= _WHOLE:
                yield from _read_documents(file)
                return
            raise _broken(file, number, text, error) from None
        yield _object(file, f"line {number}", value)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _broken(file: Path, number: int, text: str, error: ValueError) -> DataError:
    reason = getattr(error, "msg", str(error))
    column = getattr(error, "colno", 1)
    hint = "Fix that line: each line is one JSON object."
    if text.endswith(",") and _is_json(text.rstrip(",")):
        hint = "Take the commas from the ends of the lines: each line is one JSON object."
    elif text.startswith("{'"):
        hint = "JSON takes double quotes only: write the rows with json.dumps."
    elif text.startswith("["):
        hint = "A list must begin at the file's first character."
    where = f"{file}, line {number}"
    return DataError(f"{where} is not valid JSON: {reason} (column {column}).", hint)


def _object(file: Path, place: str, value: Any) -> Row:
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
        raise DataError(
            f"{file}, {place} is {kind}, not an object with columns.",
            'A row looks like this:  {"instruction": "...", "output": "..."}',
        )
    return Row(place, value)


def _read_documents(file: Path) -> Iterator[Row]:
    """A list of rows, or objects that take several lines each: read whole, as datasets does."""
    with _open(file) as stream:
        raw = stream.read(_WHOLE + 1)
    if len(raw) > _WHOLE:
        raise _TooLargeError
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        begin = raw.rfind(b"\n", 0, error.start) + 1
        line = raw[begin:].partition(b"\n")[0]
        error.start -= begin
        raise _not_utf8(file, number, line, error) from None
    decoder, at, count = json.JSONDecoder(), 0, 0
    try:
        while (at := _next(text, at)) < len(text):
            value, at = decoder.raw_decode(text, at)
            for item in value if isinstance(value, list) else (value,):
                count += 1
                place = f"row {count}"
                is_text = isinstance(value, list) and isinstance(item, str)
                yield Row(place, {"text": item}) if is_text else _object(file, place, item)
    except json.JSONDecodeError as error:
        begin = text.rfind("\n", 0, error.pos) + 1
        broken = text[begin:].partition("\n")[0].strip()
        raise _broken(file, error.lineno, broken, error) from None


def _next(text: str, at: int) -> int:
    """Where the next character that is no white space stands."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _read_csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(1 << 30)
    ended = False

    def lines() -> Iterator[str]:
        nonlocal ended
        for _, line in _lines(file):
            yield from _CARRIAGE_RETURN.split(line)
        ended = True

    reader = csv.reader(lines())
    header = next(reader, [])
    most, begins = len(header), reader.line_num + 1
    for number, cells in enumerate(reader):
        if cells:
            most = max(most, len(cells)) if number == 0 else most  # an index comes first
            if len(cells) > most:
                raise DataError(
                    f"{file}, line {begins} has {len(cells)} cells, and the first line"
                    f" {len(header)}.",
                    'Put a cell that holds a comma or a line break in quotes:  "..."',
                )
            if ended:  # within the row: its quote takes the rest of the file
                raise DataError(
                    f"{file}, line {begins} opens a quote that is never closed.",
                    "Close it, or double the quotes that stand inside of a cell.",
                )
            yield Row(f"line {begins}", dict(zip(header, cells, strict=False)))
        begins = reader.line_num + 1


def _read_text(file: Path) -> Iterator[Row]:
    for number, line in _lines(file):
        yield Row(f"line {number}", {"text": line.rstrip("\n")})


def _read_binary(file: Path) -> Iterator[Row]:
    done = subprocess.run(
        [sys.executable, "-m", JOB, str(file)], capture_output=True, text=True, timeout=_TIMEOUT
    )
    lines = io.StringIO(done.stdout)
    columns = json.loads(lines.readline() or "{}")
    if done.returncode or "columns" not in columns:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise DataError(
            f"{file} cannot be read: {last.partition(': ')[2] or last}",
            "Write it anew, or correct ds_type.",
        )
    for number, line in enumerate(lines, 1):
        yield Row(f"row {number}", dict.fromkeys(columns["columns"]) | json.loads(line))


_READERS = {
    "json": _read_json,
    "csv": _read_csv,
    "text": _read_text,
    "parquet": _read_binary,
    "arrow": _read_binary,
}
BINARY = frozenset({"parquet", "arrow"})
"""Kinds that a job has to read."""
KINDS = frozenset(_READERS)
"""What `read` can read."""
