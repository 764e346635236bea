"""What writes while the power is cut: the product's own saves, retention, and publishing.

    python -m faults.writer saves|models FOLDER PREPARED TIMES

`saves`: checkpoint after checkpoint as a trainer makes them, through the product's own record of
a save, seal and retention, with the files of PREPARED for transformers'. `models`: merged models
that replace each other, through the product's own publishing. Each line on stdout tells what
begins or is done; nothing is told twice, and what is told was done before.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from leviathan_train.checkpoints import retention, store
from leviathan_train.checkpoints.seal import digest
from leviathan_train.checkpoints.store import Facts, Seal
from leviathan_train.merge import publish
from leviathan_train.merge.output import workplace
from leviathan_train.merge.process import settle
from leviathan_train.run.folder import Run
from leviathan_train.system.files import write_json

SAVE_STEPS = 10
STATE = "trainer_state.json"


def content(prepared: Path, step: int) -> dict[str, bytes]:
    """The files of a checkpoint or a model: as prepared, but for what names the step."""
    files = {
        file.name: file.read_bytes()
        for file in sorted(prepared.iterdir())
        if file.is_file() and file.name != store.SEAL
    }
    files["README.md"] += b"%d" % step
    if STATE in files:
        state = json.loads(files[STATE]) | {"global_step": step}
        files[STATE] = json.dumps(state).encode()
    return files


def tell(*words: object) -> None:
    print(*words, flush=True)


def saves(folder: Path, prepared: Path, times: int) -> None:
    """Save, seal, delete the old, and so on."""
    run = Run(folder)
    known = [step for step, _ in store.folders(run)]
    step = max(known, default=0)
    for _ in range(times):
        step += SAVE_STEPS
        path = run.checkpoint(step)
        files = content(prepared, step)
        store.unseal(path)
        run.begin_save(path.name)
        tell("begin", step)
        path.mkdir(exist_ok=True)
        for name, data in files.items():
            (path / name).write_bytes(data)
        tell("written", step)
        facts = Facts(step, loss=1.0, max_steps=100_000)
        store.write_seal(run, path, Seal(facts, time.time(), 1.0, 1, {}, {}, {}))
        tell("sealed", step)
        plan = retention.plan(store.scan(run), retention.Policy(2), in_use={step: "just saved"})
        for item in plan:
            if not item.keep:
                tell("delete", item.checkpoint.step)
                retention.delete(run, item.checkpoint)
        tell("kept", step)


def models(goal: Path, prepared: Path, times: int) -> None:
    """Publish one model after the other under one name."""
    for number in range(1, times + 1):
        with publishing(goal) as place:
            out = place / "merged"
            out.mkdir()
            files = {}
            for name, data in content(prepared, number).items():
                (out / name).write_bytes(data)
                files[name] = {"bytes": settle(out / name, None), "sha256": digest(out / name)}
            write_json(out / publish.RECORD, {"files": files, "number": number}, durable=True)
            tell("begin", number)
            publish._publish(out, goal, place / "replaced")
            tell("published", number)


def publishing(goal: Path) -> contextlib.AbstractContextManager[Path]:
    """The hidden folder of a merge, what a dead one left in it repaired."""
    plan: Any = SimpleNamespace(goal=goal, workplace=workplace(goal))
    return publish._working(plan)


if __name__ == "__main__":
    arguments = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    {"saves": saves, "models": models}[sys.argv[1]](*arguments)
