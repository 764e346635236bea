"""What the design costs with many runs, sessions and ranks: file operations, requests, seconds.

    python bench/scale.py [--runs 10 1000 100000] [--ranks 8 64 512]

Everything is done for real on this disk, but for the training: folders of runs with a checkpoint
each, a run with many sessions, and checkpoints with as many shards as ranks. What the ranks of a
training ask of a shared file system is counted for one of them and multiplied. `docs/scale.md`
says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from leviathan_train.checkpoints import seal as seals  # noqa: E402
from leviathan_train.checkpoints.seal import Facts, Seal  # noqa: E402
from leviathan_train.mirror.place import Place  # noqa: E402
from leviathan_train.mirror.remote import Remote  # noqa: E402
from leviathan_train.run.folder import Run  # noqa: E402
from leviathan_train.run.records import Launch, Phase, Status  # noqa: E402
from leviathan_train.trainer.lead import Deadline  # noqa: E402
from leviathan_train.trainer.listener import Listener  # noqa: E402
from support import shapes  # noqa: E402

LEVIATHAN = str(Path(sys.executable).with_name("leviathan"))
WATCHED = 10.0
"""Seconds for which the file operations of one rank are counted."""
LINKS = 50_000
"""Names that a file may have on any file system; ext4 allows 65,000."""
SHARD = 1 << 20
"""Bytes of each of the three files that a rank leaves in a sharded checkpoint here."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, nargs="*", default=[10, 1000, 100_000])
    parser.add_argument("--sessions", type=int, nargs="*", default=[10, 1000])
    parser.add_argument("--ranks", type=int, nargs="*", default=[8, 64, 512])
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        for count in args.runs:
            print(f"runs with {count} runs: {list_runs(folder / f'runs{count}', count):.2f} s")
        for count in args.sessions:
            seconds = list_sessions(folder / f"sessions{count}", count)
            print(f"history with {count} sessions: {seconds:.2f} s")
        for rank in (0, 1):
            each = operations_of_a_rank(folder / f"rank{rank}", rank)
            print(f"file operations a second of rank {rank}: {each:.0f}")
        for ranks in args.ranks:
            print(
                f"a listing of the requests by each of {ranks} ranks: {each * ranks:.0f} a second"
            )
        for ranks in args.ranks:
            seconds, size = seal_shards(folder / f"shards{ranks}", ranks)
            print(
                f"a seal of {ranks} ranks, {size / 1e9:.2f} GB: {seconds:.2f} s"
                f" ({size / 1e9 / seconds:.2f} GB/s)"
            )
        print(f"requests to a store for one checkpoint: {requests(folder / 'mirror')}")


def list_runs(folder: Path, count: int) -> float:
    """Seconds of `leviathan runs` with so many runs below work/training."""
    root = folder / "work/training"
    for number in range(count):
        copy = root / f"run{number}"
        if number % LINKS == 0:
            first = shapes.make(copy, 10, sealed=True).parent
            files = [file for file in first.rglob("*") if file.is_file()]
            continue
        for file in files:
            to = copy / file.relative_to(first)
            to.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, to)
    return timed(folder, "runs", "--json")


def list_sessions(folder: Path, count: int) -> float:
    """Seconds of `leviathan history` of a run with so many sessions."""
    run = Run(folder / "work/training/run")
    session = run.open_session(Launch(config="c.yaml"))
    (session.path / "metrics.jsonl").write_text('{"step": 10, "loss": 1.5}\n')
    files = [file for file in session.path.iterdir() if file.is_file()]
    for number in range(1, count):
        copy = session.path.with_name(f"20200101_{number:06}")
        copy.mkdir()
        for file in files:
            (copy / file.name).write_bytes(file.read_bytes())
    return timed(folder, "history", "run", "--json")


def timed(folder: Path, *words: str) -> float:
    """Seconds of a command, the second time that it is typed."""
    env = os.environ | {"XDG_STATE_HOME": str(folder / "state")}
    for _ in range(2):
        began = time.perf_counter()
        done = subprocess.run([LEVIATHAN, *words], cwd=folder, env=env, capture_output=True)
        seconds = time.perf_counter() - began
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
    return seconds


def operations_of_a_rank(folder: Path, rank: int) -> float:
    """File operations a second of what listens in a rank's process."""
    run = Run(folder / "run")
    session = run.open_session(Launch(), role="rank0")
    listener = Listener(session, rank, Status("run", Phase.TRAINING), Deadline(), print)
    listener.may_leave = False
    listener.start()
    with counted() as found:
        for step in range(int(WATCHED)):
            listener.tell(step=step)
            time.sleep(1.0)
    listener.close()
    return sum(found.values()) / WATCHED


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count what this process asks of the file system meanwhile, by the name of the call."""
    found: Counter[str] = Counter()
    on = [True]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if on and (event == "open" or event.startswith("os.")):
            found[event] += 1

    sys.addaudithook(hook)
    try:
        yield found
    finally:
        on.clear()


def seal_shards(folder: Path, ranks: int) -> tuple[float, int]:
    """Seconds of sealing a checkpoint to which each rank gave three files, and its bytes."""
    path = folder / "checkpoint-10"
    path.mkdir(parents=True)
    content = os.urandom(SHARD)
    for rank in range(ranks):
        for kind in ("model", "optimizer", "rng_state"):
            (path / f"{kind}_{rank}").write_bytes(content)
    seal = Seal(Facts(10), time.time(), 0.0, ranks, {}, {}, {})
    began = time.perf_counter()
    sealed, _ = seals.write(path, seal)
    return time.perf_counter() - began, sum(size for size, _ in sealed.files.values())


def requests(folder: Path) -> str:
    """Requests that the copy of one checkpoint of plain LoRA costs at an S3 server."""
    import logging

    from moto.server import ThreadedMotoServer
    from werkzeug.serving import WSGIRequestHandler

    logging.disable()
    found: Counter[str] = Counter()
    WSGIRequestHandler.log_request = lambda self, *args: found.update([self.command])  # type: ignore[method-assign]
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    port = server._server.port if server._server else 0
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    import s3fs

    s3fs.S3FileSystem().mkdir("runs")
    path = shapes.make(folder / "run", 10, sealed=True)
    remote = Remote(Place("s3://runs/bench", "run"))
    found.clear()
    remote.upload(path, (path / seals.SEAL).read_bytes())
    uploading = dict(found)
    found.clear()
    remote.copies()
    looking = dict(found)
    server.stop()
    files = len(list(path.iterdir()))
    return f"{uploading} for {files} files, and {looking} for a look"


if __name__ == "__main__":
    main()
