"""Feed the readers of files from elsewhere with bytes that a fuzzer makes up.

    pip install atheris
    python -m faults.fuzz [CORPUS...] [-max_total_time=3600]            in tests/

Each input is one file of a run: its first byte says which, the rest is its content. A seal gets a
checksum that is right, or nothing behind the checksum would be reached. A reader may say that the
file is broken; any other exception ends the fuzzer, which leaves the input. The rest of the
arguments are libFuzzer's. With --seeds FOLDER, writes inputs to begin with and ends.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["leviathan_train"]):
    from leviathan_train.checkpoints import seal as seals
    from leviathan_train.checkpoints import store
    from leviathan_train.config import rows
    from leviathan_train.config.load import load_config
    from leviathan_train.config.rows import DataError
    from leviathan_train.errors import LeviathanError
    from leviathan_train.launch import activity
    from leviathan_train.run import metrics
    from leviathan_train.run.folder import Run
    from leviathan_train.run.history import history

from support import runs, shapes

STEP = 10
Target = tuple[Path, Callable[[], object]]
"""The file that takes the bytes, and what reads it."""


def targets(folder: Path) -> list[Target]:
    """Every file of a run, and of its config, that somebody else may have written."""
    run = Run(folder / "run")
    checkpoint = shapes.make(run.path, STEP)
    session = runs.begin(run)
    runs.tell(run, session)
    runs.log(session, range(1, 20))

    def look() -> None:
        found = store.inspect(run, checkpoint, store.Read.ALL)
        store.ranked([found])
        if found.intact:
            store.read_state(checkpoint)

    def follow() -> None:
        list(history(run))
        activity.look(run)
        metrics.of_session(session)

    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    sealed: Target = (checkpoint / store.SEAL, look)
    records = (
        *(session.launch_file, session.status_file, session.begin_file, session.seam_file),
        *(session.metrics_file, session.screen_file, session.end_file, run.saves_file),
    )
    data = folder / "data"
    kinds = ("json", "csv", "text")
    config = folder / "config.yaml"
    return [
        sealed,
        *((path, look) for path in files),
        *((path, follow) for path in records),
        *((data, lambda kind=kind: list(rows.read(data, kind))) for kind in kinds),
        (config, lambda: load_config(config)),
    ]


def feed(found: list[Target], data: bytes) -> None:
    """Let one file hold the bytes, read it, and give it back what it held."""
    if not data:
        return
    path, read = found[data[0] % len(found)]
    content = data[1:]
    if path.name == store.SEAL:
        try:
            content = seals._signed(json.loads(content)).encode()
        except (ValueError, TypeError, RecursionError):
            return
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(content)
    try:
        read()
    except (LeviathanError, DataError, seals.FaultError):
        pass  # told
    finally:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(before)


def seeds(found: list[Target], folder: Path) -> None:
    """Each file as it is, as an input."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (path, _) in enumerate(found):
        if path.exists():
            (folder / f"{number}-{path.name}").write_bytes(bytes([number]) + path.read_bytes())


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        found = targets(Path(name))
        if sys.argv[1:2] == ["--seeds"]:
            seeds(found, Path(sys.argv[2]))
            return
        atheris.Setup(sys.argv, lambda data: feed(found, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
