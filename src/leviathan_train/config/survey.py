"""What in the local data will hurt a training: a look at every row, one after another.

What a row is in tokens is asked of a judge (Axolotl's own strategies, in `jobs/survey.py`), and
only of rows that may be too long, of those that may teach nothing, and of a sample: no token
is shorter than a byte, so most rows need no judge.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from leviathan_train.config import rows
from leviathan_train.config.batch import packs
from leviathan_train.config.data import Source, sources
from leviathan_train.config.load import Config, number
from leviathan_train.config.row_types import Want, messages_of, wanted
from leviathan_train.config.rows import DataError

SHOWN = 3
"""Places that are told of each fault."""
FRAME = 600
"""Bytes of what a prompt's format puts around a row, which are tokens too."""
_SAMPLE, _MOST = 300, 5000
"""Rows of a sample, and of those that may be at fault, that are judged."""
_SURELY = 16
"""Bytes for each token of `sequence_len` above which a row is taken for too long as it is."""
_IDS = frozenset({"id", "uuid", "idx", "index"})
"""Columns that number rows and are not trained on."""
_ANSWERING = frozenset({"assistant", "gpt", "model", "bot", "chatbot", "ai"})


@dataclass(frozen=True)
class Judged:
    """A row as the training gets it: its tokens, and how many of them count for the loss."""

    tokens: int
    counted: int


Judge = Callable[[Source, Mapping[str, Any]], Judged]
"""Raises whatever Axolotl would raise."""


@dataclass
class Fault:
    """Rows at fault: how many, and where the first of them stand.

    Attributes:
        estimated: whether `count` was reckoned from some of the rows.
    """

    count: int = 0
    places: list[str] = field(default_factory=list)
    estimated: bool = False

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.places) < SHOWN:
            self.places.append(place)


@dataclass
class Survey:
    """What was seen of the rows.

    Attributes:
        rows: of `datasets`, `entries` of each; `eval_rows` of `test_datasets`.
        whole: whether every row was looked at; else time was up.
        duplicates: rows that are there before, in the same data.
        shared: rows of `test_datasets` that are in `datasets`.
        long: rows above `sequence_len`.
        silent: rows of which no token counts for the loss.
        lacking: rows without a column that their type wants and other rows have.
        refused: rows on which Axolotl fails; `refusal` is why.
        mean_tokens: of a row that is trained on; None if nothing was judged.
        packs: of `sequence_len` that such a row fills, packed with others.
        unknown: why the rows were not judged.
    """

    rows: int = 0
    eval_rows: int = 0
    entries: dict[str, int] = field(default_factory=dict)
    whole: bool = True
    duplicates: Fault = field(default_factory=Fault)
    shared: Fault = field(default_factory=Fault)
    long: Fault = field(default_factory=Fault)
    silent: Fault = field(default_factory=Fault)
    lacking: Fault = field(default_factory=Fault)
    refused: Fault = field(default_factory=Fault)
    refusal: str = ""
    mean_tokens: float | None = None
    packs: float | None = None
    unknown: str = ""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The survey as a job hands it on."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Survey:
        """What `as_json` gave."""
        faults = ("duplicates", "shared", "long", "silent", "lacking", "refused")
        return cls(**{**value, **{name: Fault(**value[name]) for name in faults}})


@dataclass
class _Draw:
    """Rows drawn evenly from all that are offered (algorithm R)."""

    most: int
    dice: random.Random
    offered: int = 0
    kept: list[tuple[int, Source, rows.Row, int]] = field(default_factory=list)

    def offer(self, source: Source, row: rows.Row, size: int) -> None:
        self.offered += 1
        item = (self.offered, source, row, size)
        if len(self.kept) < self.most:
            self.kept.append(item)
        elif (at := self.dice.randrange(self.offered)) < self.most:
            self.kept[at] = item

    def shuffled(self) -> list[tuple[int, Source, rows.Row, int]]:
        """What was drawn, each part of it as even a draw as the whole."""
        return self.dice.sample(self.kept, len(self.kept))


def survey(config: Config, judge: Judge | None, *, unknown: str = "", seconds: float) -> Survey:
    """Look at the rows of the local data files.

    Args:
        judge: None if rows cannot be judged; `unknown` says why.
        seconds: how long rows may be read, and how long they may be judged.
    """
    found, began = Survey(unknown=unknown), time.monotonic()
    reader = _Reader(config, found)
    for source in sources(config):
        try:
            found.whole &= reader.read(source, began + seconds)
        except (DataError, OSError):
            continue  # told by `data.faults`
    if judge is not None:
        _judge(config, found, reader, judge, time.monotonic() + seconds)
    found.seconds = time.monotonic() - began
    return found


class _Reader:
    """Reads rows once: finds those that are there twice, and draws those to judge."""

    def __init__(self, config: Config, found: Survey) -> None:
        dice = random.Random(0)
        self.found = found
        self.values = config.values
        self.limit = number(config.values, "sequence_len", 512)
        self.seen: dict[int, tuple[Source, str]] = {}
        self.of_eval: dict[int, tuple[Source, str]] = {}
        self.columns: dict[str, dict[str, None]] = {}
        self.sample = _Draw(_SAMPLE, dice)
        self.long = _Draw(_MOST, dice)
        self.silent = _Draw(_MOST, dice)

    def read(self, source: Source, until: float) -> bool:
        """Read a file; False if time was up."""
        trains = source.key.startswith("datasets")
        want = wanted(source.entry, self.values) if trains else None
        for count, row in enumerate(rows.read(source.file, source.kind), 1):
            self._remember(source, row, trains=trains)
            if trains:
                self._draw(source, row, want)
            if count % 1000 == 0 and time.monotonic() > until:
                return False
        return True

    def _remember(self, source: Source, row: rows.Row, *, trains: bool) -> None:
        key = _key(row.values)
        mine = self.seen if trains else self.of_eval
        if trains:
            self.found.rows += 1
            entries = self.found.entries
            entries[source.key] = entries.get(source.key, 0) + 1
        else:
            self.found.eval_rows += 1
            if first := self.seen.get(key):  # `datasets` are read first
                self.found.shared.add(f"{_at(source, row.place)}{_as(source, first)}")
        if first := mine.get(key):
            self.found.duplicates.add(f"{_at(source, row.place)}{_as(source, first)}")
        else:
            mine[key] = (source, row.place)

    def filled(self, source: Source, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row as `datasets` makes it: with every column that another row has."""
        return {**self.columns[source.key], **values}

    def _draw(self, source: Source, row: rows.Row, want: Want | None) -> None:
        columns = self.columns.setdefault(source.key, {})
        columns.update(dict.fromkeys(row.values))
        # Columns that no row has are told by `data.faults`.
        if want and any(name in columns and name not in row.values for name in want.columns):
            self.found.lacking.add(_at(source, row.place))
        size = _size(row.values)
        self.sample.offer(source, row, size)
        if size > self.limit * _SURELY:
            self.found.long.add(_at(source, row.place))
            self.found.long.estimated = True
        elif size + FRAME > self.limit:
            self.long.offer(source, row, size)
        elif _may_be_silent(row.values, want):
            self.silent.offer(source, row, size)


@dataclass
class _Verdict:
    """What the judge said of the rows of a draw; places in the order of the files.

    Attributes:
        slack: tokens that a row had more than bytes, at most.
        lengths: of the rows that are trained on.
    """

    asked: int = 0
    long: list[tuple[int, str]] = field(default_factory=list)
    silent: list[tuple[int, str]] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    refusal: str = ""
    slack: int = 0
    lengths: list[int] = field(default_factory=list)


def _judge(config: Config, found: Survey, reader: _Reader, judge: Judge, until: float) -> None:
    truncates = config.values.get("excess_length_strategy") == "truncate"

    def as_made(source: Source, values: Mapping[str, Any]) -> Judged:
        return judge(source, reader.filled(source, values))

    # The sample first: it is small, and the number of steps follows from it.
    sampled, silent, long = (
        _ask(draw, as_made, reader.limit, until, truncates=truncates)
        for draw in (reader.sample, reader.silent, reader.long)
    )
    for draw, seen in ((reader.silent, silent), (reader.long, long)):
        _extend(found.long, seen.long, seen.asked, draw.offered)
        _extend(found.silent, seen.silent, seen.asked, draw.offered)
        _extend(found.refused, seen.refused, seen.asked, draw.offered)
    # Rows that no rule suspected, and that the draws have not seen.
    _others(found.silent, sampled.silent, sampled.asked, reader.sample.offered)
    _others(found.refused, sampled.refused, sampled.asked, reader.sample.offered)
    found.refusal = sampled.refusal or silent.refusal or long.refusal
    found.long.estimated |= sampled.slack > FRAME
    if sampled.lengths:
        found.mean_tokens = sum(sampled.lengths) / len(sampled.lengths)
        found.packs = packs(sampled.lengths, reader.limit) / len(sampled.lengths)


def _ask(draw: _Draw, judge: Judge, limit: int, until: float, *, truncates: bool) -> _Verdict:
    """Judge the rows of a draw until time is up; one at least."""
    seen = _Verdict()
    for number_drawn, source, row, size in draw.shuffled():
        if seen.asked and time.monotonic() > until:
            break
        seen.asked += 1
        at = (number_drawn, _at(source, row.place))
        try:
            judged = judge(source, row.values)
        except Exception as error:
            seen.refused.append(at)
            told = " ".join(f"{type(error).__name__}: {error}".split())
            seen.refusal = seen.refusal or told[:200]
            continue
        seen.slack = max(seen.slack, judged.tokens - size)
        if judged.tokens > limit:
            seen.long.append(at)
        elif not judged.counted:
            seen.silent.append(at)
        if (judged.tokens <= limit and judged.counted) or truncates:
            seen.lengths.append(min(judged.tokens, limit))
    return seen


def _extend(total: Fault, part: list[tuple[int, str]], asked: int, offered: int) -> None:
    """Count what was found in some of the rows that may be at fault."""
    if part:
        total.count += round(len(part) * offered / asked)
        total.places = (total.places + [place for _, place in sorted(part)])[:SHOWN]
        total.estimated |= asked < offered


def _others(total: Fault, part: list[tuple[int, str]], asked: int, offered: int) -> None:
    """Take what a sample of all rows found, where it is far more than what was counted."""
    reckoned = round(len(part) * offered / asked) if asked else 0
    if part and reckoned > total.count * 1.5:
        total.count, total.estimated = reckoned, asked < offered
        total.places = [place for _, place in sorted(part)][:SHOWN]


def _key(values: Mapping[str, Any]) -> int:
    """A number that is the same for rows of the same content."""
    kept: Iterable[tuple[str, Any]] = values.items()
    if not _IDS.isdisjoint(values):
        kept = [(name, value) for name, value in kept if name not in _IDS]
    try:
        return hash(tuple(sorted(kept)))
    except TypeError:  # a list in it, or values of two kinds
        return hash(repr(sorted(kept, key=lambda item: item[0])))


def _size(value: Any) -> int:
    """Bytes of all text in a value."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_size, value)) + 16 * len(value)  # each message has a frame of its own
    return 0 if value is None else 8


def _may_be_silent(values: Mapping[str, Any], want: Want | None) -> bool:
    """Whether a row seems to hold no answer."""
    if want is None:
        return False
    if want.role:
        messages = messages_of(values.get(want.columns[0])) or []
        return not any(
            isinstance(message, Mapping)
            and str(message.get(want.role)).lower() in _ANSWERING
            and message.get(str(want.content))
            for message in messages
        )
    answer = values.get(want.answer) if want.answer else True
    return not (answer.strip() if isinstance(answer, str) else answer)


def _at(source: Source, place: str) -> str:
    return f"{source.file}, {place}"


def _as(source: Source, first: tuple[Source, str]) -> str:
    """Where the same row stands before."""
    where = first[1] if first[0].file == source.file else _at(*first)
    return f" (as {where})"
