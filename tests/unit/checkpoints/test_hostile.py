"""A checkpoint from a stranger: it may lie, and is never run, followed out of, or unfolded."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leviathan_train.checkpoints import seal as seals
from leviathan_train.checkpoints import store, structure
from leviathan_train.checkpoints.seal import Facts, FaultError, Seal
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.cli import main
from leviathan_train.run.folder import Run
from leviathan_train.system import files
from leviathan_train.ui import values
from leviathan_train.ui.values import dumps
from support import runs, shapes
from support.anything import JSON

OUT = "is a link out of the checkpoint, which is not read"
BOUND = 3 << 30
"""Bytes of address space within which every hostile folder must be told."""


def look(path: Path, read: store.Read = store.Read.ALL) -> Checkpoint:
    return store.inspect(Run(path.parent), path, read)


# -- pickles ---------------------------------------------------------------------------


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.trace),))


@pytest.mark.parametrize("sealed", [True, False])
def test_no_command_that_reads_unpickles(
    tmp_path: Path, sealed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    trace = tmp_path / "trace"
    run = Run(tmp_path / "run")
    path = shapes.make(run.path, 10)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save(Bomb(trace), path / name)
    (path / "extra.pkl").write_bytes(pickle.dumps(Bomb(trace)))
    if sealed:
        shapes.seal(path)
    session = runs.begin(run)
    runs.tell(run, session)
    words = [["list"], ["latest"], ["show", "--step", "10"], ["verify"], ["export"]]
    for command in [["checkpoints", *w] for w in words] + [["status"], ["history"]]:
        with pytest.raises(SystemExit) as ended:
            main([*command, str(run.path), "--json"])
        assert ended.value.code == 0, (command, capsys.readouterr())
        json.loads(capsys.readouterr().out)
    assert not trace.exists()
    with pytest.raises(FileExistsError):  # the bomb is one
        trace.mkdir()
        torch.load(path / "optimizer.pt", weights_only=False)


# -- links -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json", "leviathan.json", "more"])
def test_a_link_out_of_a_checkpoint_is_a_fault_and_not_read(tmp_path: Path, name: str) -> None:
    path = shapes.make(tmp_path / "run", 10, sealed=name == "leviathan.json")
    away = tmp_path / "away"
    if (path / name).exists():
        (path / name).rename(away)
    else:
        away.write_text("x")
    (path / name).symlink_to(away)
    away.chmod(0o444)
    before = away.stat().st_atime_ns
    os.utime(away, ns=(1, away.stat().st_mtime_ns))
    for read in store.Read:
        assert look(path, read).reason == f"{name} {OUT}"
    assert look(path).seal is None
    assert away.stat().st_atime_ns == 1 != before
    if name == "trainer_state.json":
        with pytest.raises(FaultError, match="link out"):
            store.read_state(path)


def test_a_link_to_a_folder_outside_is_not_walked(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 10)
    (path / "system").symlink_to("/")
    assert look(path).reason == f"system {OUT}"
    shapes.make(tmp_path, 20, sealed=True)
    (tmp_path / "checkpoint-20" / "system").symlink_to("/")
    assert look(tmp_path / "checkpoint-20").reason == "system was added after the save"


def test_a_link_inside_is_read_through(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 10)
    (path / "optimizer.pt").rename(path / "moved.pt")
    (path / "optimizer.pt").symlink_to("moved.pt")
    assert look(path).state == "unsealed"


def test_what_was_moved_away_and_linked_is_intact_if_it_is_what_the_seal_says(
    tmp_path: Path,
) -> None:
    path = shapes.make(tmp_path / "run", 10, sealed=True)
    (path / "optimizer.pt").rename(tmp_path / "away")
    (path / "optimizer.pt").symlink_to(tmp_path / "away")
    assert all(look(path, read).state == "intact" for read in store.Read)
    content = (tmp_path / "away").read_bytes()
    (tmp_path / "away").write_bytes(content[:-1] + b"x")
    assert look(path).reason == "optimizer.pt has changed (SHA-256 differs)"
    (tmp_path / "away").write_bytes(content + b"x")
    assert "instead of" in look(path).reason


def test_a_seal_cannot_lead_the_look_elsewhere(tmp_path: Path) -> None:
    path = shapes.make(tmp_path / "run", 10)
    (tmp_path / "secret").write_text("x")
    (path / "x").symlink_to(tmp_path)
    files = {"x/../secret": (1, "0" * 64), "x/secret": (2, "0" * 64)}
    (path / "leviathan.json").write_text(Seal(Facts(10), 0, 0, 1, {}, {}, {}, files).to_text())
    assert look(path).reason == "x/../secret is missing"


def test_a_pipe_is_never_waited_for(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 10, sealed=True)
    for name in ("trainer_state.json", "leviathan.json"):
        (path / name).unlink()
        os.mkfifo(path / name)
        assert look(path).state == "damaged"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        seals.digest(tmp_path / "pipe")
    session = runs.begin(Run(tmp_path))
    os.mkfifo(session.status_file)
    assert session.status is None


def test_folders_below_folders_are_no_trap(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 10)
    deep = path
    for _ in range(1100):
        deep = deep / "a"
    made = subprocess.run(["mkdir", "-p", str(deep)], capture_output=True)
    assert made.returncode == 0
    (deep / "file").write_text("12345")
    assert look(path).state == "unsealed"
    assert files.folder_bytes(path / "a") == 5
    subprocess.run(["rm", "-rf", str(path / "a")], check=True)  # too deep for Python's own


# -- sizes -----------------------------------------------------------------------------


def zip_bomb(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", b"x")
        with archive.open("archive/data/0", "w") as member:
            for _ in range(256):
                member.write(bytes(1 << 20))


def zip_that_lies(file: Path) -> None:
    """A stored member whose directory claims ten times the file's size."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(1000))
    text = file.read_bytes().replace((1000).to_bytes(4, "little"), (90_000).to_bytes(4, "little"))
    file.write_bytes(text)


def huge_directory(file: Path) -> None:
    """A zip whose end says that its directory takes a gigabyte, which is there, sparse."""
    size = 1 << 30
    with file.open("wb") as stream:
        stream.write(b"PK\x03\x04")
        stream.truncate(size + 4)
        stream.seek(size + 4)
        end = size.to_bytes(4, "little") + (4).to_bytes(4, "little")
        stream.write(b"PK\x05\x06" + bytes(4) + b"\xff\xff\xff\xff" + end + bytes(2))


def sparse(file: Path) -> None:
    with file.open("wb") as stream:
        stream.write(b"{")
        stream.truncate(1 << 30)


def nested(file: Path) -> None:
    file.write_bytes(b"[" * 1_000_000)


def giant_header(file: Path) -> None:
    with file.open("wb") as stream:
        stream.write((99_000_000).to_bytes(8, "little"))
        stream.write(b"[" + b"[]," * 33_000_000)


def huge_dimensions(file: Path) -> None:
    """A header whose product of dimensions has millions of digits."""
    shape = ",".join(["9" * 4000] * 3000)
    text = f'{{"a":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,8]}}}}'.encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))


LOOK = """
import resource, sys
from pathlib import Path
from leviathan_train.checkpoints import store
from leviathan_train.run.folder import Run
from leviathan_train.system import files
from leviathan_train.ui import values
from leviathan_train.ui.values import dumps
resource.setrlimit(resource.RLIMIT_AS, ({bound}, {bound}))
path = Path(sys.argv[1])
for read in store.Read:
    print(store.inspect(Run(path.parent), path, read).reason)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("optimizer.pt", zip_bomb, "optimizer.pt is not a torch archive: it holds more"),
        ("optimizer.pt", zip_that_lies, "optimizer.pt is not a torch archive: it holds more"),
        ("optimizer.pt", huge_directory, "optimizer.pt is not a torch archive: its directory"),
        ("trainer_state.json", sparse, "trainer_state.json cannot be read (File too large)"),
        ("trainer_state.json", nested, "trainer_state.json is not valid JSON"),
        ("tokenizer.json", sparse, "tokenizer.json cannot be read (File too large)"),
        ("tokenizer.json", nested, "tokenizer.json is not valid JSON"),
        ("leviathan.json", sparse, "leviathan.json cannot be read (File too large)"),
        ("leviathan.json", nested, "leviathan.json is not readable as a seal"),
        ("latest", sparse, "latest cannot be read (File too large)"),
        ("a/.metadata", sparse, "a/.metadata cannot be read (File too large)"),
        ("x.index.json", sparse, "x.index.json cannot be read (File too large)"),
        ("adapter_model.safetensors", giant_header, "adapter_model.safetensors is cut off"),
        ("adapter_model.safetensors", huge_dimensions, "adapter_model.safetensors has a damaged"),
    ],
)
def test_what_would_take_all_memory_or_time_is_a_fault(
    tmp_path: Path, name: str, spoil: Any, reason: str
) -> None:
    path = shapes.make(tmp_path, 10)
    if name == "latest":
        (path / "global_step10").mkdir()
        for part in ("mp_rank_00_model_states.pt", "a_optim_states.pt"):
            (path / "global_step10" / part).write_bytes((path / "optimizer.pt").read_bytes())
    (path / name).parent.mkdir(exist_ok=True)
    spoil(path / name)
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(bound=BOUND), str(path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *reasons, kilobytes = done.stdout.splitlines()
    if name == "tokenizer.json" and spoil is nested:  # a look sees both its ends only
        reasons = reasons[1:]
    assert all(told.startswith(reason) for told in reasons), reasons
    assert int(kilobytes) < 512 << 10


# -- names -----------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [True, False])
def test_no_name_reaches_the_terminal_raw(
    tmp_path: Path, sealed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "a\x1b]0;owned\x07\x1b[2J\nb\udc80.json"
    run = Run(tmp_path / "r\x1b[31mun")
    path = shapes.make(run.path, 10, sealed=sealed)
    (path / evil).write_text("{")
    for command in (
        ["checkpoints", "list"],
        ["checkpoints", "show", "--step", "10"],
        ["checkpoints", "verify"],
        ["checkpoints", "latest"],
        ["checkpoints", "cleanup", "--keep", "1", "--dry-run"],
        ["checkpoints", "best"],
        ["checkpoints", "export"],
        ["merge", "--checkpoint", "10"],
        ["status"],
        ["history"],
        ["pause"],
    ):
        with pytest.raises(SystemExit):
            main([*command, str(run.path)])
        told = capsys.readouterr()
        assert "\x1b" not in told.out + told.err, command
        assert "\x07" not in told.out + told.err, command


# -- any bytes -------------------------------------------------------------------------

STATE_KEYS = ["global_step", "epoch", "log_history", "max_steps", "best_global_step"]
STATE_KEYS += ["best_metric", "stateful_callbacks"]
LINES = st.lists(
    st.dictionaries(st.sampled_from(["loss", "eval_loss", "step", "learning_rate"]), JSON) | JSON,
    max_size=3,
)


def written(tmp_path_factory: pytest.TempPathFactory, name: str, text: bytes) -> Path:
    folder = tmp_path_factory.getbasetemp() / "fuzz" / "checkpoint-10"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / name).write_bytes(text)
    return folder


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


@settings(deadline=None)
@given(
    st.binary(max_size=300)
    | st.builds(
        lambda known, log: dumped(known | {"log_history": log}),
        st.dictionaries(st.sampled_from(STATE_KEYS), JSON | st.just(10)),
        LINES | JSON,
    )
)
def test_any_trainer_state_is_facts_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    path = written(tmp_path_factory, "trainer_state.json", text)
    for whole in (True, False):
        try:
            facts = structure.read_facts(path, 10, whole=whole)
        except FaultError:
            continue
        check(facts)


def check(facts: Facts) -> None:
    """Facts hold what their types say, so that they can be compared and formatted."""
    assert type(facts.step) is int
    for value in (facts.epoch, facts.loss, facts.eval_loss, facts.learning_rate):
        assert value is None or f"{value:.4g}"
    for number in (facts.max_steps, facts.best_step, facts.eval_step):
        assert number is None or number / 3 is not None


FACTS = list(Facts.__dataclass_fields__)


@settings(deadline=None)
@given(
    st.binary(max_size=300)
    | st.builds(
        lambda facts, rest: dumped(
            {
                "seal": 1,
                "facts": facts,
                "time": 1.0,
                "seconds_trained": 1.0,
                "world_size": 1,
                "versions": {},
                "config": {},
                "trainer": {},
                "files": {},
            }
            | rest
        ),
        st.dictionaries(st.sampled_from(FACTS), JSON | st.just(10)),
        st.dictionaries(
            st.sampled_from(
                ["time", "world_size", "seconds_trained", "files", "trainer", "config", "versions"]
            ),
            JSON | st.builds(lambda size: {"a": {"bytes": size, "sha256": size}}, JSON),
        ),
    )
)
def test_any_seal_is_a_seal_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    path = written(tmp_path_factory, "leviathan.json", text)
    try:
        found = seals.read(path)
    except FaultError:
        try:
            value = json.loads(text)
        except ValueError:
            return
        again = Seal.from_json(value)
        if again is None:
            return
        found = again
    check(found.facts)
    dumps(dict(found.versions) | {"seconds": found.seconds_trained, "time": found.time})
    store.inspect(Run(path.parent), path, store.Read.ALL)


@pytest.mark.parametrize("spoilt", [{"versions": {"torch": float("inf")}}, {"time": float("nan")}])
def test_a_seal_with_numbers_that_json_lacks_ends_no_export(
    tmp_path: Path, spoilt: dict[str, Any]
) -> None:
    path = shapes.make(tmp_path, 10)
    (path / "leviathan.json").write_text(
        json.dumps(Seal(Facts(10), 1.0, 1.0, 1, {}, {}, {}).to_json() | spoilt)
    )
    found = look(path)
    assert found.state == "damaged"
    dumps(values.details(Run(tmp_path), found, [found]))


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(0, 3), st.data())
def test_any_archive_is_sound_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, members: int, data: st.DataObject
) -> None:
    path = written(tmp_path_factory, "optimizer.pt", b"")
    file = path / "optimizer.pt"
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(members):
            archive.writestr(f"archive/{number}.data.pkl", junk)
    text = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        if text:
            text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(text) if data.draw(st.booleans()) else b"PK\x03\x04" + junk)
    for whole in (True, False):
        assert all(
            isinstance(told, str)
            for told in structure.file_faults(path, ["optimizer.pt"], whole=whole)
        )
