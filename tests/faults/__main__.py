"""All faults, for as long as it takes; started by scripts/faults.sh.

    python -m faults [--folder FOLDER] [--jobs 2] [--parts kills,...]          in tests/

What was done before is not done again: `FOLDER/results.jsonl` keeps each try. Prints a line for
each part that is done, and a table at the end; exit status 1 if a try is not as promised.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from faults import bench, disks, hanging, injected, merging, places, plain
from faults.kills import Chain
from faults.power import PowerCuts, cuts
from faults.results import Results, Try, table
from leviathan_train.run.folder import Run
from support.demo import ROOT

Part = tuple[str, Callable[[], list[Try]]]
"""A key, and what it stands for."""

CHAINS = {2: 3, 1: 6}
"""Chains of kills by the number of ranks."""
CUTS = 8
"""Power cuts on one disk."""
DISKS = 4
MOUNTS = 2
"""Trainings whose mount hangs, of each kind."""


def kills(folder: Path) -> Iterator[Part]:
    for ranks, number in CHAINS.items():
        made = bench.make(folder / f"bench-{ranks}", ranks)
        for seed in range(1, number + 1):
            yield f"kills {ranks} {seed}", Chain(made, seed, folder).tries


def power_cuts(folder: Path) -> Iterator[Part]:
    made = bench.make(folder / "bench-1")
    prepared = made.folder / "run" / f"checkpoint-{bench.SAVE_STEPS}"
    for kind in disks.KINDS:
        if why := disks.missing(kind):
            print(f"No power cuts on {kind}: {why}.", flush=True)
            continue
        for seed in range(1, DISKS + 1):
            yield f"power {kind} {seed}", partial(cuts, kind, seed, CUTS, folder, prepared)


def cut_trainings(folder: Path) -> Iterator[Part]:
    made = bench.make(folder / "bench-1")
    for kind in disks.KINDS:
        if not disks.missing(kind):
            yield f"power training {kind}", PowerCuts(made, 1, folder, kind).tries


def failing_calls(folder: Path) -> Iterator[Part]:
    made = bench.make(folder / "bench-1")
    prepared = made.folder / "run" / f"checkpoint-{bench.SAVE_STEPS}"
    if why := injected.missing():
        print(f"No failing system calls: {why}.", flush=True)
        return
    for call in ("mkdir", "write", "fsync", "rename", "unlink"):
        yield f"injected {call}", partial(injected.one_by_one, call, folder, prepared)


def failing_trainings(folder: Path) -> Iterator[Part]:
    if not injected.missing():
        yield "injected trainings", partial(injected.trainings, folder)


def odd_places(folder: Path) -> Iterator[Part]:
    made = bench.make(folder / "bench-1")

    def at(what: Callable[[Run, Path], list[Try]]) -> list[Try]:
        with places.run_of_all(made.config) as (run, config):
            return what(run, config)

    yield "garbage", partial(at, partial(places.garbled, thorough=True))
    yield "locks", partial(at, lambda run, config: places.locks(run))
    if os.geteuid() == 0:
        yield "another user", partial(at, places.of_others)
        yield "read-only", partial(at, places.written_never)
    if shutil.which("faketime"):
        yield "clocks", partial(at, places.clocks)
    for seed in (1, 2):
        yield f"gone {seed}", partial(lambda seed: [places.gone(made, folder, seed)], seed)


def hanging_mounts(folder: Path) -> Iterator[Part]:
    if why := hanging.missing():
        print(f"No mount that hangs: {why}.", flush=True)
        return
    yield "hanging commands", partial(hanging.commands, folder)
    made = bench.make(folder / "bench-1")
    for seed in range(1, MOUNTS + 1):
        yield f"hanging for good {seed}", hanging.Hung(made, seed, folder, kills=CUTS).tries
        yield f"hanging {seed}", hanging.Waiting(made, seed, folder).tries


def merges(folder: Path) -> Iterator[Part]:
    made = merging.make(bench.make(folder / "bench-1"), folder / "merging")
    if why := injected.missing():
        print(f"No merges with failing system calls: {why}.", flush=True)
    else:
        for target in merging.targets(made):
            yield f"merge {' '.join(map(str, target))}", partial(merging.failing, made, *target)
    if os.geteuid() == 0:
        yield "merge full disk", partial(merging.disks, made)


def plain_axolotl(folder: Path) -> Iterator[Part]:
    yield "plain", partial(plain.tries, folder, 10)


PARTS: dict[str, Callable[[Path], Iterable[Part]]] = {
    "power": power_cuts,
    "calls": failing_calls,
    "places": odd_places,
    "kills": kills,
    "power-training": cut_trainings,
    "calls-training": failing_trainings,
    "merge": merges,
    "hanging": hanging_mounts,
    "plain": plain_axolotl,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Disturb trainings in every way.")
    parser.add_argument("--folder", type=Path, default=ROOT / "work/faults")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--parts", default=",".join(PARTS))
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    results = Results(folder / "results.jsonl")
    parts = itertools.chain.from_iterable(PARTS[name](folder) for name in options.parts.split(","))

    def work(part: Part) -> None:
        key, run = part
        began = time.monotonic()
        try:
            tries = run()
        except Exception as error:  # the others are tried all the same, this one the next time
            print(f"{key}: could not be tried: {error!r}", flush=True)
            return
        results.add(key, tries)
        print(f"{key}: {len(tries)} tries, {time.monotonic() - began:.0f} s", flush=True)
        for one in tries:
            if not one.survived:
                print(f"  {one}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(work, [part for part in parts if part[0] not in results]))
    print(table(results.tries()))
    ours = [one for one in results.tries() if not one.fault.startswith(plain.NAME)]
    sys.exit(not all(one.survived for one in ours))


if __name__ == "__main__":
    main()
