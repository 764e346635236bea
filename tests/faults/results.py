"""What became of each fault: one JSON line a try, and the table that sums them up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Try:
    """One fault and what it came to.

    Attributes:
        fault: the row of the table that it belongs to.
        inside: whether it fell into a save.
        lost: steps that had been trained and had to be trained again.
        silent: resumes that began elsewhere than at the newest intact checkpoint, untold.
        wrong: checkpoints that pass for intact and differ from the undisturbed run.
        left: processes that outlived it.
        problem: what else is not as promised; empty if all is.
        seed: what the random choices were drawn from.
    """

    fault: str
    inside: bool = False
    lost: int = 0
    silent: int = 0
    wrong: int = 0
    left: int = 0
    problem: str = ""
    seed: str = ""

    @property
    def survived(self) -> bool:
        return not (self.silent or self.wrong or self.left or self.problem)


class Results:
    """The tries so far, kept in a file, so that an interrupted round continues.

    Args:
        path: JSON lines, one for each part of a round that is done: its key and its tries.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done: dict[str, list[Try]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                    self._done[entry["key"]] = [Try(**found) for found in entry["tries"]]
                except (ValueError, KeyError, TypeError):
                    continue  # cut off when the round was interrupted

    def __contains__(self, key: str) -> bool:
        return key in self._done

    def add(self, key: str, tries: Iterable[Try]) -> None:
        """Keep what a part of the round came to."""
        self._done[key] = list(tries)
        entry = {"key": key, "tries": [asdict(found) for found in self._done[key]]}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+") as stream:
            stream.seek(0)
            cut_off = stream.read()[-1:] not in {"", "\n"}
            stream.write("\n" * cut_off + json.dumps(entry) + "\n")

    def tries(self) -> Iterator[Try]:
        for key in sorted(self._done):
            yield from self._done[key]


def table(tries: Iterable[Try]) -> str:
    """The tries by fault, as a table in markdown."""
    by_fault: dict[str, list[Try]] = {}
    every = list(tries)
    for one in every:
        by_fault.setdefault(one.fault, []).append(one)
    rows = [
        "| Fault | Tries | In a save | Survived | Most steps lost | Silent restarts"
        " | Wrong results | Processes left |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for fault, found in [*sorted(by_fault.items()), ("**All**", every)]:
        cells = (
            len(found),
            sum(one.inside for one in found),
            sum(one.survived for one in found),
            max((one.lost for one in found), default=0),
            sum(one.silent for one in found),
            sum(one.wrong for one in found),
            sum(one.left for one in found),
        )
        rows.append(f"| {fault} | {' | '.join(map(str, cells))} |")
    return "\n".join(rows)
