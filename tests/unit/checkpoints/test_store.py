"""Finding checkpoints, and telling the intact from the damaged, with a seal and without."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from leviathan_train.checkpoints import seal, structure
from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.index import Known, remember
from leviathan_train.checkpoints.seal import Seal, facts_of
from leviathan_train.checkpoints.store import SEAL, Checkpoint, Facts, Read
from leviathan_train.errors import UsageError
from leviathan_train.run.folder import Run
from support import shapes
from support.disks import unreadable

Fault = Callable[[Path, Path], object]


def look(path: Path, read: Read = Read.NEW) -> Checkpoint:
    return checkpoints.inspect(Run(path.parent), path, read)


def flip(at: float) -> Fault:
    def fault(file: Path, other: Path) -> None:
        content = bytearray(file.read_bytes())
        content[min(int(len(content) * at), len(content) - 1)] ^= 1
        file.write_bytes(content)

    return fault


def halve(file: Path, other: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


FAULTS: dict[str, Fault] = {
    "deleted": lambda file, other: file.unlink(),
    "emptied": lambda file, other: os.truncate(file, 0),
    "halved": halve,
    "flipped at the start": flip(0),
    "flipped in the middle": flip(0.5),
    "flipped at the end": flip(1),
    "replaced": lambda file, other: file.write_bytes(other.read_bytes()),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each shape a run with the steps 100 and 200, without seals."""
    folder = tmp_path_factory.mktemp("originals")
    for name, shape in shapes.SHAPES.items():
        for step in (100, 200):
            shapes.make(folder / name, step, shape)
    return folder


def spoil(path: Path, name: str, fault: Fault, other: Path) -> None:
    """Do one fault to one file of step 100; `other` is the same of step 200."""
    step = path.name.removeprefix("checkpoint-")
    twin = other / name.replace(
        f"global_step{step}", other.name.replace("checkpoint-", "global_step")
    )
    fault(path / name, twin)


# -- finding ---------------------------------------------------------------------------


def test_only_folders_named_by_a_step_are_checkpoints_and_sort_by_number(tmp_path: Path) -> None:
    for name in ("checkpoint-900", "checkpoint-10000", "checkpoint-final", "checkpoint-7x"):
        (tmp_path / name).mkdir()
    for name in ("checkpoint-007", "checkpoint-5\n", "Xcheckpoint-6", "checkpoint-٣"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-5").write_text("a file")
    (tmp_path / "checkpoint-7").symlink_to("checkpoint-900")
    assert [step for step, _ in checkpoints.folders(Run(tmp_path))] == [900, 10000]


def test_a_run_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert checkpoints.scan(Run(tmp_path / "none")) == []


def test_a_run_that_cannot_be_read_is_an_error_not_an_empty_run(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(PermissionError):
            checkpoints.scan(Run(tmp_path))
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)


def test_a_checkpoint_that_vanishes_during_the_look_is_not_told(tmp_path: Path) -> None:
    for step in (1, 2):
        shapes.make(tmp_path, step)
    found = []
    for checkpoint in checkpoints.scanning(Run(tmp_path)):
        found.append(checkpoint.step)
        if (tmp_path / "checkpoint-2").exists():
            shutil.rmtree(tmp_path / "checkpoint-2")
    assert found == [1]


# -- intact or damaged -----------------------------------------------------------------


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_a_whole_checkpoint_is_intact_with_its_facts(tmp_path: Path, shape: str) -> None:
    path = shapes.make(tmp_path, 100, shapes.SHAPES[shape], evals=50)
    found = look(path)
    assert (found.state, found.reason) == ("unsealed", "")
    assert (found.facts.loss, found.facts.eval_loss) == (1.99, 1.01)
    shapes.seal(path)
    found = look(path)
    assert (found.state, found.reason, found.facts.eval_step) == ("intact", "", 100)
    assert found.bytes == sum((path / name).stat().st_size for name in shapes.files(path))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_every_fault_of_every_file_of_a_sealed_checkpoint_is_found_and_named(
    tmp_path: Path, originals: Path, shape: str, fault: str
) -> None:
    path, other = tmp_path / "run" / "checkpoint-100", tmp_path / "other" / "checkpoint-200"
    shutil.copytree(originals / shape / "checkpoint-100", path)
    shutil.copytree(originals / shape / "checkpoint-200", other)
    shapes.seal(path)
    shapes.seal(other)
    for name in shapes.files(path):
        before = (path / name).read_bytes()
        if before == (other / name.replace("step100", "step200")).read_bytes() and "repl" in fault:
            continue  # a README is the same in both
        spoil(path, name, FAULTS[fault], other)
        found = look(path)
        assert found.state == "damaged", name
        assert name.split("/")[-1] in found.reason
        (path / name).write_bytes(before)
        assert look(path).state == "intact"


NOT_NEEDED = {"README.md", "zero_to_fp32.py"}
"""What no resume reads."""
NOT_MISSED = NOT_NEEDED | {"training_args.bin", "tokens_state.json", "tokenizer_config.json"}
NOT_MISSED |= {"config.json"}
PARTS = {".metadata", "__0_0.distcp"}


def hidden(name: str, fault: str, content: bytes) -> bool:
    """Whether docs/checkpoints.md lists a fault as one that structure cannot show."""
    file = name.split("/")[-1]
    if file in NOT_NEEDED or fault == "replaced":
        return file != "trainer_state.json"
    if fault == "deleted":
        return file in NOT_MISSED
    if file.endswith(".safetensors"):
        return fault in {"flipped in the middle", "flipped at the end"}  # a tensor's value
    if fault == "flipped in the middle":
        if file.endswith((".pt", ".pth", ".bin")):
            return content[len(content) // 2] in b"Z\0"  # padding between the tensors
        return file in PARTS or file.endswith(".json")
    return False


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_without_a_seal_every_fault_that_structure_can_show_is_found_and_named(
    tmp_path: Path, originals: Path, shape: str, fault: str
) -> None:
    path, other = tmp_path / "checkpoint-100", originals / shape / "checkpoint-200"
    shutil.copytree(originals / shape / "checkpoint-100", path)
    for name in shapes.files(path):
        if name == "rng_state_1.pth" and shape == "fsdp" and fault == "deleted":
            continue  # only one process wrote the parts of this example
        before = (path / name).read_bytes()
        spoil(path, name, FAULTS[fault], other)
        found = look(path)
        if not hidden(name, fault, before):
            assert found.state == "damaged", name
            assert fault == "deleted" or name.split("/")[-1] in found.reason
        (path / name).write_bytes(before)
        assert look(path).state == "unsealed"


def test_an_added_file_is_found(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100, sealed=True)
    (path / "extra.bin").write_bytes(b"")
    assert look(path).reason == "extra.bin was added after the save"


def test_what_is_no_regular_file_is_found_and_never_opened(tmp_path: Path) -> None:
    for sealed in (True, False):
        path = shapes.make(tmp_path / str(sealed), 100, sealed=sealed)
        (path / "optimizer.pt").unlink()
        os.mkfifo(path / "optimizer.pt")
        assert look(path).reason == "optimizer.pt is no regular file"


def test_a_file_that_the_disk_cannot_read_is_found(tmp_path: Path) -> None:
    """`/proc/self/mem` cannot be read from its beginning: a real EIO."""
    path = shapes.make(tmp_path, 100)
    with unreadable(path / "optimizer.pt"):
        assert look(path).reason == "optimizer.pt cannot be read (Input/output error)"
    (path / "optimizer.pt").unlink()
    (path / "optimizer.pt").symlink_to("/proc/self/mem")
    written = path / "leviathan.json"
    text = Seal(Facts(100), 0, 0, 1, {}, {}, {}, {"optimizer.pt": (0, "0" * 64)}).to_text()
    written.write_text(text)
    assert look(path).reason == "optimizer.pt cannot be read (Input/output error)"


def test_links_inside_a_checkpoint_are_read_through_and_cannot_trap_the_walk(
    tmp_path: Path,
) -> None:
    away = tmp_path / "away"
    path = shapes.make(tmp_path / "run", 100, shapes.fsdp)
    (path / "optimizer_0").rename(away)
    (path / "optimizer_0").symlink_to(away)
    shapes.seal(path)
    assert look(path).state == "intact"
    (away / "__0_0.distcp").write_bytes(b"other")
    assert "optimizer_0/__0_0.distcp" in look(path).reason
    (path / "loop").symlink_to(path.parent)
    assert look(path).state == "damaged"


def test_a_link_to_nothing_is_a_missing_file(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100)
    (path / "optimizer.pt").rename(tmp_path / "moved")
    (path / "optimizer.pt").symlink_to(tmp_path / "nothing")
    assert look(path).reason == "optimizer.pt is missing"


def test_a_save_under_the_plugin_without_a_seal_was_interrupted(
    tmp_path: Path,
) -> None:
    path = shapes.make(tmp_path, 100)
    Run(tmp_path).begin_save(path.name)
    found = look(path)
    assert found.state == "damaged" and "interrupted" in found.reason


def test_a_folder_renamed_to_another_step_is_damaged(tmp_path: Path) -> None:
    for sealed in (True, False):
        path = shapes.make(tmp_path / str(sealed), 100, sealed=sealed)
        found = look(path.rename(path.with_name("checkpoint-300")))
        assert found.reason.endswith("is of step 100")


def test_an_empty_folder_is_damaged_and_dated(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    found = look(tmp_path / "checkpoint-1")
    assert (found.state, found.bytes) == ("damaged", 0)
    assert found.modified > 1e9


def test_a_save_of_weights_alone_is_no_checkpoint_to_resume_from(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100)
    (path / "optimizer.pt").unlink()
    assert "silently restart the optimizer" in look(path).reason


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"global_step": "100"}',
        '{"global_step": 100, "log_history": {}}',
        "[" * 100_000,
    ],
)
def test_a_trainer_state_of_another_shape_is_a_fault_not_a_crash(tmp_path: Path, text: str) -> None:
    path = shapes.make(tmp_path, 100)
    (path / "trainer_state.json").write_text(text)
    assert look(path).reason.startswith("trainer_state.json")


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_of_another_shape_is_a_fault_not_a_crash(tmp_path: Path, text: str) -> None:
    path = shapes.make(tmp_path, 100, shapes.full)
    (path / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in look(path).reason


@pytest.mark.parametrize("header", [b"[]", b'{"a": 1}', b'{"a": {"data_offsets": [0, 8]}}', b"{"])
def test_a_safetensors_header_of_another_shape_is_a_fault(tmp_path: Path, header: bytes) -> None:
    path = shapes.make(tmp_path, 100)
    content = len(header).to_bytes(8, "little") + header + bytes(8)
    (path / "adapter_model.safetensors").write_bytes(content)
    assert look(path).reason.startswith("adapter_model.safetensors has")


@given(st.binary(max_size=200))
def test_no_content_of_a_file_crashes_the_look(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "junk"
    folder.mkdir(exist_ok=True)
    names = ["a.safetensors", "a.pt", "a.json", "a.index.json", "adapter_config.json", "a.distcp"]
    for name in names:
        (folder / name).write_bytes(b"PK\x03\x04" + junk if name == "a.pt" else junk)
    list(structure.faults(folder, seal.file_stats(folder)))


# -- the index -------------------------------------------------------------------------


def test_an_unchanged_checkpoint_is_not_read_again(tmp_path: Path) -> None:
    for sealed in (True, False):
        path = shapes.make(tmp_path / str(sealed), 100, sealed=sealed)
        first = look(path)
        when = path.stat().st_atime_ns
        os.utime(path / "optimizer.pt", ns=(0, (path / "optimizer.pt").stat().st_mtime_ns))
        look(path)  # its ctime is new: read and noted
        again = (path / "optimizer.pt").stat().st_atime_ns
        os.utime(path, ns=(when, path.stat().st_mtime_ns))
        assert look(path).state == first.state
        assert (path / "optimizer.pt").stat().st_atime_ns == again


def test_a_change_that_keeps_size_and_mtime_is_found(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100, sealed=True)
    assert look(path).intact
    file = path / "adapter_model.safetensors"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    flip(0.9)(file, file)
    os.utime(file, ns=times)
    assert "adapter_model.safetensors" in look(path).reason


def test_a_change_within_a_tick_of_the_clock_is_found(tmp_path: Path) -> None:
    """A file's times are only as fine as the kernel's tick: changed at once, they may not tell."""
    for number in range(20):
        path = shapes.make(tmp_path / str(number), 100, sealed=True)
        flip(0.9)(path / "adapter_model.safetensors", path)
        assert not look(path).intact
        path = shapes.make(tmp_path / f"plain{number}", 100)
        assert look(path).intact
        halve(path / "optimizer.pt", path)
        assert not look(path).intact


def test_verify_reads_what_the_index_would_trust_and_takes_the_trust_away(tmp_path: Path) -> None:
    """Bit rot changes no time: the index is made to fit the rotten file."""
    path = shapes.make(tmp_path, 100, sealed=True)
    found = look(path)
    flip(0.9)(path / "adapter_model.safetensors", path)
    remember(Run(tmp_path), path.name, Known("intact", found.facts, True, seal.file_stats(path)))
    assert look(path).intact
    assert not look(path, Read.ALL).intact
    assert not look(path).intact


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"index": 1}', '{"index": 1, "facts": {"a": 1}}']
)
def test_a_broken_index_is_passed_over(tmp_path: Path, text: str) -> None:
    path = shapes.make(tmp_path, 100, sealed=True)
    look(path)
    (Run(tmp_path).verified / "checkpoint-100.json").write_text(text)
    assert look(path).state == "intact"


def test_an_index_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100)
    Run(tmp_path).records.write_text("a file where a folder should be")
    assert look(path).state == "unsealed"


def test_an_index_for_unsealed_files_does_not_serve_a_sealed_checkpoint(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100)
    assert look(path).state == "unsealed"
    (path / SEAL).write_text("{}")
    assert look(path).state == "damaged"


# -- a look without reading ------------------------------------------------------------


@pytest.mark.parametrize("shape", shapes.SHAPES)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_look_reads_no_tensor_and_says_so(tmp_path: Path, shape: str, sealed: bool) -> None:
    path = shapes.make(tmp_path, 100, shapes.SHAPES[shape], sealed=sealed)
    shutil.rmtree(Run(tmp_path).verified, ignore_errors=True)
    weights = next(path.rglob("*.distcp"), None) or next(path.rglob("*.safetensors"))
    flip(0.9)(weights, weights)
    for _ in range(2):  # the second time by the index
        seen = look(path, Read.NOTHING)
        assert (seen.state, seen.is_read) == ("intact" if sealed else "unsealed", False)
    read = look(path)
    assert read.is_read and read.intact is not sealed  # only a seal shows it


@pytest.mark.parametrize("fault", ["deleted", "emptied", "halved"])
@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_a_look_finds_what_is_missing_or_cut_off(tmp_path: Path, shape: str, fault: str) -> None:
    whole = shapes.make(tmp_path / "whole", 100, shapes.SHAPES[shape])
    names = [n for n in seal.file_stats(whole) if n.endswith((".pt", ".safetensors"))]
    for number, name in enumerate([*names, "trainer_state.json"]):
        path = tmp_path / str(number) / whole.name
        shutil.copytree(whole, path)
        FAULTS[fault](path / name, path / "README.md")
        found = look(path, Read.NOTHING)
        assert not found.intact and found.reason == look(path).reason, (name, found)


def test_a_look_at_a_sealed_one_finds_files_that_lost_their_content(tmp_path: Path) -> None:
    """After a power cut a file may have its size, and zeros in it."""
    whole = shapes.make(tmp_path / "whole", 100, sealed=True)
    names = [n for n in seal.file_stats(whole) if not n.endswith(".md")]
    for number, name in enumerate(names):
        path = tmp_path / str(number) / whole.name
        shutil.copytree(whole, path)
        (path / name).write_bytes(bytes((path / name).stat().st_size))
        found = look(path, Read.NOTHING)
        assert not found.intact and name in found.reason, (name, found)


@pytest.mark.parametrize("found_by", [Read.NOTHING, Read.NEW, Read.ALL])
def test_what_was_found_damaged_is_damaged_at_every_further_look(
    tmp_path: Path, found_by: Read
) -> None:
    path = shapes.make(tmp_path, 100, sealed=True)
    weights = path / "adapter_model.safetensors"
    flip(0.9)(weights, weights)
    os.utime(weights, (1, 1))
    assert look(path, found_by).state == "damaged"
    for _ in range(2):
        assert "adapter_model.safetensors has changed" in look(path, Read.NOTHING).reason
    flip(0.9)(weights, weights)
    assert look(path, Read.NOTHING).intact


def test_a_look_reads_where_one_file_was_changed_since_it_was_read(tmp_path: Path) -> None:
    path = shapes.make(tmp_path / "a", 100, sealed=True)
    weights = path / "adapter_model.safetensors"
    assert look(path, Read.NOTHING).is_read  # as it was when it was sealed
    flip(0.9)(weights, weights)
    os.utime(weights, (1, 1))
    assert "adapter_model.safetensors has changed" in look(path, Read.NOTHING).reason
    flip(0.9)(weights, weights)
    assert look(path).is_read
    shutil.copytree(path.parent, tmp_path / "b", copy_function=shutil.copy)  # all times are new
    shutil.copytree(path.parent, tmp_path / "c", copy_function=shutil.copy2)  # only the inodes
    for copy in "bc":
        found = look(tmp_path / copy / path.name, Read.NOTHING)
        assert (found.state, found.is_read) == ("intact", False)


@pytest.mark.parametrize("evals", [0, 500, 20_000])
def test_a_look_at_a_long_log_tells_what_reading_it_tells(tmp_path: Path, evals: int) -> None:
    path = shapes.make(tmp_path, 20_500, every=1, evals=evals)
    assert (path / "trainer_state.json").stat().st_size > 2_000_000
    seen, read = look(path, Read.NOTHING), look(path)
    assert not seen.is_read and read.is_read
    assert seen.facts == replace(read.facts, best_eval_loss=None)
    assert (read.facts.eval_loss is None) is (evals == 0)


def test_a_long_state_of_another_layout_is_read_whole(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100)
    state = shapes.trainer_state(100) | {"log_history": [{"loss": 2.0, "step": 1}] * 9000}
    for text in (json.dumps(state), json.dumps(state, indent=2).replace("logging_steps", "other")):
        (path / "trainer_state.json").write_text(text)
        assert look(path, Read.NOTHING).facts.loss == 2.0


# -- seal and verify -------------------------------------------------------------------

slow = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed checkpoint of small files of every kind, for many changes."""
    path = tmp_path_factory.mktemp("small") / "checkpoint-7"
    (path / "folder").mkdir(parents=True)
    (path / "trainer_state.json").write_text('{"global_step": 7, "log_history": []}')
    (path / "folder" / "part").write_bytes(b"part")
    (path / "empty").write_bytes(b"")
    shapes.seal(path)
    return path


@slow
@given(data=st.data())
def test_any_change_of_a_sealed_checkpoint_is_found(small: Path, data: DataObject) -> None:
    name = data.draw(st.sampled_from([*shapes.files(small), "new", "folder/new"]))
    file = small / name
    before = file.read_bytes() if file.exists() else None
    after = bytearray(before or b"")
    kind = data.draw(st.sampled_from(["change", "insert", "cut", "delete"]))
    if kind == "change" and after:
        at = data.draw(st.integers(0, len(after) - 1))
        after[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != after[at]))
    elif kind == "insert" or before is None:
        at = data.draw(st.integers(0, len(after)))
        after[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    elif kind == "cut" and after:
        del after[data.draw(st.integers(0, len(after) - 1)) :]
    if kind == "delete" and before is not None:
        file.unlink()
    elif before is not None and bytes(after) == before:
        return
    else:
        file.write_bytes(after)
    try:
        assert not look(small).intact
        assert not look(small, Read.ALL).intact
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_bytes(before)
    assert look(small).state == "intact"


numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50)
@given(
    facts=st.builds(Facts, step=st.integers(0, 1 << 62), loss=numbers, eval_loss=numbers),
    config=st.dictionaries(
        st.text(), st.none() | st.text() | st.integers() | st.lists(st.floats())
    ),
    seconds=st.floats(0, 1e9),
)
def test_a_seal_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    facts: Facts,
    config: dict[str, object],
    seconds: float,
) -> None:
    path = tmp_path_factory.getbasetemp() / "written"
    path.mkdir(exist_ok=True)
    written = Seal(facts, seconds, seconds, 1, {"torch": "2"}, config, {}, {"a b/ü": (1, "f")})
    (path / SEAL).write_text(written.to_text())
    assert repr(seal.read(path)) == repr(written)  # NaN is not equal to itself


def test_a_seal_takes_what_json_cannot_hold(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100)
    shapes.seal(path, config={1: "a", "1": "b", "path": Path("/x"), "none": None})
    assert look(path).state == "intact"


def test_a_seal_of_another_version_says_so(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100, sealed=True)
    value = json.loads((path / SEAL).read_text())
    (path / SEAL).write_text(json.dumps(value | {"seal": 3}))
    assert "another version of leviathan-train: 3" in look(path).reason


def test_a_seal_names_no_file_outside_its_checkpoint(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100, sealed=True)
    outside = tmp_path / "outside"
    outside.write_text("x")
    whole = seal.read(path)
    files = dict(whole.files) | {"../outside": (1, seal.digest(outside))}
    (path / SEAL).write_text(replace(whole, files=files).to_text())
    assert look(path).reason == "../outside is missing"


def test_sealing_again_replaces_the_seal_and_sweeps_its_leftovers(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100, sealed=True)
    (path / f".{SEAL}.abc.tmp").write_text("half")
    assert look(path).state == "intact"
    (path / "README.md").write_text("other")
    checkpoints.unseal(path)
    shapes.seal(path)
    assert look(path).state == "intact"
    assert not list(path.glob(".*"))


# -- facts -----------------------------------------------------------------------------


def test_facts_leave_out_what_json_has_no_word_for() -> None:
    state = shapes.trainer_state(20) | {"best_metric": math.inf}
    state["log_history"] += [{"loss": math.nan, "step": 20}, {"eval_loss": math.nan, "step": 20}]
    facts = facts_of(state)
    assert (facts.loss, facts.eval_loss, facts.best_metric) == (None, None, None)
    assert facts.eval_step == 20


def test_facts_of_a_state_without_a_log() -> None:
    facts = facts_of({"global_step": 3, "log_history": None})
    assert facts == Facts(3)


# -- choosing --------------------------------------------------------------------------


def known(step: int, eval_loss: float | None = None, **more: Any) -> Checkpoint:
    facts = Facts(step, eval_loss=eval_loss, **more)
    return Checkpoint(Path(f"run/checkpoint-{step}"), step, facts, "intact", "", 1, 1.0)


def damaged(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, state="damaged", reason="optimizer.pt is missing")


def test_latest_is_the_newest_intact() -> None:
    found = [known(900), known(10000), damaged(known(10001))]
    latest = checkpoints.latest(found)
    assert latest and latest.step == 10000


def test_checkpoints_can_be_told_apart_in_a_set(tmp_path: Path) -> None:
    for step in (10, 20):
        shapes.make(tmp_path, step)
    twice = [*checkpoints.scan(Run(tmp_path)), *checkpoints.scan(Run(tmp_path))]
    assert len(set(twice)) == 2


def test_best_is_by_eval_loss_of_the_checkpoint_nearest_to_the_evaluation() -> None:
    found = [
        known(100, 1.5, eval_step=100),
        known(200, 1.2, eval_step=200),
        known(201, 1.2, eval_step=200),
        known(290, 1.2, eval_step=200),
        known(300, 1.3, eval_step=300),
    ]
    best = checkpoints.best(found)
    assert best and best.step == 200
    del found[1]
    best = checkpoints.best(found)
    assert best and best.step == 201


def test_an_evaluation_of_the_base_model_makes_no_checkpoint_the_best() -> None:
    assert checkpoints.best([known(42, 5.9, eval_step=0)]) is None
    best = checkpoints.best([known(42, 1.0, eval_step=0), known(50, 5.0, eval_step=50)])
    assert best and best.step == 50


def test_best_is_what_transformers_tracks_if_it_is_intact() -> None:
    found = [known(100, 1.5), known(200, 1.2), known(300, 1.3, best_step=100)]
    best = checkpoints.best(found)
    assert best and best.step == 100
    best = checkpoints.best([damaged(found[0]), *found[1:]])
    assert best and best.step == 200


def test_without_an_evaluation_there_is_no_best_and_the_refusal_says_why() -> None:
    assert checkpoints.best([known(1), known(2)]) is None
    with pytest.raises(UsageError, match="why"):
        checkpoints.select(Run(Path("run")), "best", [known(1)])


@pytest.mark.parametrize("choice", ["100", "checkpoint-100", "{run}/checkpoint-100", "{run}/link"])
def test_a_checkpoint_is_chosen_by_step_name_or_path(tmp_path: Path, choice: str) -> None:
    path = shapes.make(tmp_path, 100)
    (tmp_path / "link").symlink_to(path)
    run = Run(tmp_path)
    found = checkpoints.select(run, choice.format(run=tmp_path), checkpoints.scan(run))
    assert (found.step, found.state) == (100, "unsealed")


@pytest.mark.parametrize("choice", ["7", "²", "", "nothing", "/", "latest", "best"])
def test_what_is_not_there_is_a_usage_error(tmp_path: Path, choice: str) -> None:
    with pytest.raises(UsageError), contextlib.chdir(tmp_path):
        checkpoints.select(Run(tmp_path), choice, [])
