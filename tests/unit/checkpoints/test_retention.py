"""The retention plan has laws, and the deed leaves only whole checkpoints or none."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leviathan_train.checkpoints import retention
from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.index import State
from leviathan_train.checkpoints.retention import Policy, plan
from leviathan_train.checkpoints.seal import facts_of
from leviathan_train.checkpoints.store import Checkpoint, Facts
from leviathan_train.errors import UsageError
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Launch, Phase, Status
from leviathan_train.system import processes
from leviathan_train.system.files import write_json
from support import shapes

# -- the plan --------------------------------------------------------------------------


def checkpoint(step: int, loss: float | None = None, state: State = "intact") -> Checkpoint:
    reason = "optimizer.pt is missing" if state == "damaged" else ""
    facts = Facts(step, eval_loss=loss)
    return Checkpoint(Path(f"run/checkpoint-{step}"), step, facts, state, reason, 1, 1.0)


STATES: tuple[State, ...] = ("intact", "intact", "unsealed", "weights", "damaged")


@st.composite
def runs(draw: st.DrawFn) -> list[Checkpoint]:
    steps = draw(st.lists(st.integers(1, 40), unique=True, max_size=12))
    found = []
    for step in steps:
        loss = draw(st.none() | st.sampled_from([0.5, 1.0, 1.5]))
        state = draw(st.sampled_from(STATES))
        tracked = draw(st.none() | st.sampled_from(steps))
        made = checkpoint(step, loss, state)
        found.append(replace(made, facts=replace(made.facts, best_step=tracked)))
    return found


policies = st.builds(
    Policy,
    st.integers(1, 5),
    st.none() | st.integers(1, 9),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
)
busy = st.dictionaries(st.integers(1, 40), st.just("in use"), max_size=3)


@given(runs(), policies, busy)
def test_kept_and_deleted_are_a_partition_by_step(
    found: list[Checkpoint], policy: Policy, used: dict[int, str]
) -> None:
    items = plan(found, policy, in_use=used)
    assert [item.checkpoint.step for item in items] == sorted(item.step for item in found)
    assert all(item.reasons for item in items)


@given(runs(), policies, busy)
def test_the_newest_intact_the_best_and_what_is_in_use_stay(
    found: list[Checkpoint], policy: Policy, used: dict[int, str]
) -> None:
    kept = {item.checkpoint.step for item in plan(found, policy, in_use=used) if item.keep}
    by_step = sorted(found, key=lambda item: item.step)
    intact = [item.step for item in by_step if item.intact]
    assert kept >= set(intact[-policy.keep :])
    assert kept >= used.keys() & {item.step for item in found}
    best = checkpoints.best(by_step)
    if best and policy.keep_best:
        assert best.step in kept
    if policy.keep_every:
        assert kept >= {step for step in intact if step % policy.keep_every == 0}


@given(runs(), policies, busy)
def test_damaged_ones_do_not_count_and_go(
    found: list[Checkpoint], policy: Policy, used: dict[int, str]
) -> None:
    items = plan(found, policy, in_use=used)
    for item in items:
        if not item.checkpoint.intact:
            weights = item.checkpoint.state == "weights" and policy.keep_weights
            assert item.keep == (weights or item.checkpoint.step in used)
    intact = [item for item in items if item.checkpoint.intact]
    assert sum(item.keep for item in intact) >= min(policy.keep, len(intact))


@given(runs(), policies, busy)
def test_applying_a_plan_twice_changes_nothing(
    found: list[Checkpoint], policy: Policy, used: dict[int, str]
) -> None:
    kept = [item.checkpoint for item in plan(found, policy, in_use=used) if item.keep]
    assert all(item.keep for item in plan(kept, policy, in_use=used))


@given(runs(), policies)
def test_no_more_is_kept_than_the_policy_asks_for(found: list[Checkpoint], policy: Policy) -> None:
    items = [item for item in plan(found, policy) if item.checkpoint.state != "weights"]
    kept = [item.checkpoint.step for item in items if item.keep]
    if not policy.keep_every:
        assert len(kept) <= policy.keep + policy.keep_best


def test_each_decision_carries_its_reason() -> None:
    found = [checkpoint(100, 0.5), checkpoint(200, 1.0), checkpoint(300, 1.0, "damaged")]
    found += [checkpoint(400), checkpoint(500)]
    told = {item.checkpoint.step: item.reasons for item in plan(found, Policy(2))}
    assert told == {
        100: ("best (eval loss 0.5)",),
        200: ("older than the newest 2",),
        300: ("damaged: optimizer.pt is missing",),
        400: ("one of the newest 2",),
        500: ("latest",),
    }


def test_the_k_best_are_of_k_evaluations() -> None:
    losses = {100: (0.5, 100), 200: (0.9, 200), 300: (0.9, 200), 400: (0.7, 400), 500: (0.8, 500)}
    found = [checkpoint(step) for step in (*losses, 600)]
    found = [
        replace(
            one, facts=Facts(one.step, eval_loss=losses[one.step][0], eval_step=losses[one.step][1])
        )
        if one.step in losses
        else one
        for one in found
    ]
    told = {one.checkpoint.step: one.reasons[0] for one in plan(found, Policy(1, keep_best=4))}
    assert told == {
        100: "best (eval loss 0.5)",
        200: "one of the best 4 (eval loss 0.9)",
        300: "older than the newest",
        400: "one of the best 4 (eval loss 0.7)",
        500: "one of the best 4 (eval loss 0.8)",
        600: "latest",
    }


def test_the_k_best_are_by_the_metric_of_the_config() -> None:
    right = "rewards/accuracies"
    found = []
    for step, loss, value in ((100, 0.1, 0.2), (200, 0.2, 0.9), (300, 0.3, 0.7), (400, 0.4, 0.1)):
        log = {"step": step, "eval_loss": loss, f"eval_{right}": value}
        state = {"global_step": step, "log_history": [log], "best_global_step": min(step, 200)}
        facts = facts_of(state, right, greater_is_better=True)
        found.append(replace(checkpoint(step), facts=facts))
    found.append(checkpoint(50, 0.01))  # made without the plugin
    told = {one.checkpoint.step: one.reasons[0] for one in plan(found, Policy(1, keep_best=2))}
    assert told == {
        50: "older than the newest",
        100: "older than the newest",
        200: "best (eval_rewards/accuracies 0.9)",
        300: "one of the best 2 (eval_rewards/accuracies 0.7)",
        400: "latest",
    }
    best = Facts.from_json(asdict(found[1].facts))
    assert (best.metric_value, best.greater_is_better) == (0.9, True)
    tracked = [replace(one, facts=replace(one.facts, best_step=None)) for one in found]
    assert [one.step for one in checkpoints.ranked(tracked[:4])] == [200, 300, 100, 400]


def test_eval_loss_named_as_the_metric_is_the_eval_loss_of_older_checkpoints() -> None:
    losses = {100: 0.5, 200: 0.45, 300: 0.6, 400: 0.58}
    logs = {step: {"step": step, "eval_loss": loss} for step, loss in losses.items()}
    found = [
        replace(
            checkpoint(step),
            facts=facts_of(
                {"global_step": step, "log_history": [log]}, "loss" if step > 200 else None
            ),
        )
        for step, log in logs.items()
    ]
    assert [one.step for one in checkpoints.ranked(found)] == [200, 100, 400, 300]
    told = {one.checkpoint.step: one.reasons[0] for one in plan(found, Policy(1, keep_best=2))}
    assert told[100] == "one of the best 2 (eval loss 0.5)"


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_none_is_refused(keep: int) -> None:
    with pytest.raises(UsageError, match="checkpoint to go on from"):
        Policy(keep)


def test_keeping_every_zero_steps_is_refused() -> None:
    with pytest.raises(UsageError, match="--keep-every"):
        Policy(1, 0)


# -- the deed --------------------------------------------------------------------------


def many(folder: Path, steps: list[int], size: int = 0) -> Run:
    """A run of copies of one checkpoint, each with `size` bytes more in 8 files."""
    first = shapes.make(folder, steps[0])
    for number in range(8):
        (first / f"part{number}.txt").write_bytes(b"x" * (size // 8))
    for step in steps[1:]:
        path = folder / f"checkpoint-{step}"
        shutil.copytree(first, path)
        state = (path / "trainer_state.json").read_text()
        state = state.replace(f'"global_step": {steps[0]}', f'"global_step": {step}')
        (path / "trainer_state.json").write_text(state)
    return Run(folder)


def steps_of(run: Run) -> list[int]:
    return [step for step, _ in checkpoints.folders(run)]


def clean(run: Run, keep: int) -> list[int]:
    found = checkpoints.scan(run)
    in_use = retention.in_use(run, found)
    return retention.carry_out(run, plan(found, Policy(keep), in_use=in_use))


def test_the_deed_deletes_what_the_plan_says_and_nothing_else(tmp_path: Path) -> None:
    run = many(tmp_path, [10, 20, 30, 900, 10000])
    (tmp_path / "checkpoint-5").write_text("a file")
    (tmp_path / "checkpoint-7").symlink_to("checkpoint-10000")
    for name in ("checkpoint-final", "checkpoint-old", "logs", "superseded"):
        (tmp_path / name).mkdir()
    time.sleep(0.05)  # what was written a moment ago is not yet trusted to the index
    assert clean(run, 2) == [10, 20, 30]
    assert sorted(os.listdir(tmp_path)) == [
        ".leviathan",
        "checkpoint-10000",
        "checkpoint-5",
        "checkpoint-7",
        "checkpoint-900",
        "checkpoint-final",
        "checkpoint-old",
        "logs",
        "superseded",
    ]
    assert {name.name for name in run.verified.iterdir()} == {
        "checkpoint-900.json",
        "checkpoint-10000.json",
    }


def test_a_link_inside_a_checkpoint_goes_and_what_it_points_to_stays(tmp_path: Path) -> None:
    run = many(tmp_path / "run", [10, 20])
    away = tmp_path / "away"
    away.mkdir()
    (away / "precious").write_text("x")
    (run.path / "checkpoint-10" / "link").symlink_to(away)
    (run.path / "checkpoint-10" / "file").symlink_to(away / "precious")
    assert clean(run, 1) == [10]
    assert (away / "precious").read_text() == "x"


def test_nothing_to_do_writes_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "none")
    assert clean(run, 1) == []
    assert not run.path.exists()


def test_what_another_cleanup_deleted_first_is_passed_over(tmp_path: Path) -> None:
    run = many(tmp_path, [10, 20, 30])
    found = checkpoints.scan(run)
    shutil.rmtree(tmp_path / "checkpoint-10")
    retention.carry_out(run, plan(found, Policy(1)))
    assert steps_of(run) == [30]


def test_a_run_that_has_no_room_for_the_lock_is_cleaned_all_the_same(tmp_path: Path) -> None:
    """A full disk is the very reason to clean up."""
    run = many(tmp_path, [10, 20])
    run.records.write_text("a file where a folder should be")
    assert clean(run, 1) == [10]


def test_two_cleanups_at_once_both_end_well(tmp_path: Path) -> None:
    run = many(tmp_path, list(range(10, 310, 10)))
    both = [subprocess.Popen(cleanup_of(run), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert steps_of(run) == [300]
    assert not retention.leftovers(run)


def test_a_leftover_name_that_is_taken_is_not_written_into(tmp_path: Path) -> None:
    run = many(tmp_path, [10, 20])
    old = tmp_path / ".leviathan-deleting-checkpoint-10"
    old.mkdir()
    (old / "file").write_text("x")
    retention.delete(run, checkpoints.scan(run)[0])
    assert (old / "file").exists()
    assert steps_of(run) == [20]


def cleanup_of(run: Run) -> list[str]:
    code = "from leviathan_train.cli import main; main()"
    return [
        sys.executable,
        "-c",
        code,
        "checkpoints",
        "cleanup",
        str(run.path),
        "--keep=1",
        "--yes",
    ]


def test_killed_at_any_moment_only_whole_checkpoints_or_none_bear_the_name(tmp_path: Path) -> None:
    """kill -9 at random moments from the first deletion on, until one cleanup gets through."""
    run = many(tmp_path, list(range(10, 210, 10)), size=400_000)
    whole = shapes.files(tmp_path / "checkpoint-10")
    rng = random.Random(7)
    halves, kills = 0, 0
    while len(steps_of(run)) > 1 and kills < 15:
        process = subprocess.Popen(cleanup_of(run), stdout=subprocess.PIPE, text=True)
        assert process.stdout
        while "Deleting" not in (line := process.stdout.readline()) and line:
            pass
        time.sleep(rng.uniform(0, 0.004))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        for _, path in checkpoints.folders(run):
            assert shapes.files(path) == whole
        assert checkpoints.latest(checkpoints.scan(run))
        halves += bool(retention.leftovers(run))
    assert halves, "no kill fell into a deletion"
    assert subprocess.run(cleanup_of(run), stdout=subprocess.DEVNULL).returncode == 0
    assert steps_of(run) == [200]
    assert not retention.leftovers(run)


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("call", ["rename", "unlinkat", "rmdir,unlinkat"])
def test_killed_at_a_certain_call_only_whole_checkpoints_or_none_bear_the_name(
    tmp_path: Path, call: str
) -> None:
    run = many(tmp_path, [10, 20, 30])
    whole = shapes.files(tmp_path / "checkpoint-10")
    checkpoints.scan(run)
    for when in (1, 2, 5):
        inject = f"inject={call}:signal=SIGKILL:when={when}"
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
        subprocess.run([*strace, *cleanup_of(run)], stdout=subprocess.DEVNULL)
        for _, path in checkpoints.folders(run):
            assert shapes.files(path) == whole
    subprocess.run(cleanup_of(run), stdout=subprocess.DEVNULL, check=True)
    assert steps_of(run) == [30]
    assert not retention.leftovers(run)


# -- beside a training -----------------------------------------------------------------


def live(run: Run, step: int, **launch: Any) -> None:
    """Open a session of this test's own process, which stands for the trainer."""
    session = run.open_session(Launch(**launch), role="rank0")
    status = Status(str(run.path), Phase.TRAINING, os.getpid(), processes.hostname(), step=step)
    write_json(session.status_file, asdict(status))


def test_a_live_training_keeps_what_it_resumed_from_and_what_it_is_saving(tmp_path: Path) -> None:
    run = many(tmp_path, [10, 20, 30, 40])
    for step in (10, 20, 30):
        shapes.seal(run.checkpoint(step))
    live(run, 40, resume_step=10)
    run.begin_save("checkpoint-40")
    os.utime(run.checkpoint(40) / "optimizer.pt")
    assert clean(run, 1) == [20]
    used = retention.in_use(run)
    assert used == {10: "the training resumed from it", 40: "being saved by the training"}


def test_a_live_training_keeps_the_best_that_it_may_load_at_its_end(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (10, 20, 30):
        shapes.make(tmp_path, step, sealed=True, best_global_step=10)
    live(run, 30)
    found = checkpoints.scan(run)
    items = plan(found, Policy(1, keep_best=False), in_use=retention.in_use(run, found))
    assert retention.carry_out(run, items) == [20]


def test_an_interrupted_save_of_an_earlier_session_may_go_beside_a_training(tmp_path: Path) -> None:
    run = many(tmp_path, [10, 20])
    shapes.seal(run.checkpoint(20))
    run.begin_save("checkpoint-10")
    for file in [run.checkpoint(10), *run.checkpoint(10).iterdir()]:
        os.utime(file, (1e9, 1e9))
    live(run, 20)
    assert clean(run, 1) == [10]


def test_what_became_whole_since_the_plan_was_made_stays(tmp_path: Path) -> None:
    run = many(tmp_path, [10, 20])
    shapes.seal(run.checkpoint(10))
    run.begin_save("checkpoint-20")
    found = checkpoints.scan(run)
    items = plan(found, Policy(1))
    assert [item.keep for item in items] == [True, False]
    shapes.seal(run.checkpoint(20))
    assert retention.carry_out(run, items) == []


def test_a_half_save_of_plain_axolotl_is_left_alone_for_some_minutes(tmp_path: Path) -> None:
    run = many(tmp_path, [10, 20])
    (run.checkpoint(20) / "trainer_state.json").unlink()
    found = checkpoints.scan(run)
    assert retention.in_use(run, found) == {20: "written to lately, perhaps still being saved"}
    assert clean(run, 1) == []
    assert retention.in_use(run, found, now=time.time() + 301) == {}


def test_no_training_starts_while_a_cleanup_deletes(tmp_path: Path) -> None:
    run = many(tmp_path, [10, 20])
    held: list[bool] = []

    def tell(_: Checkpoint) -> None:
        code = "import sys; from pathlib import Path; from leviathan_train.run.folder import Run\n"
        code += "from leviathan_train.run.records import Launch\n"
        code += "Run(Path(sys.argv[1])).open_session(Launch())"
        child = subprocess.Popen([sys.executable, "-c", code, str(run.path)])
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.7)
        held.append(True)
        child.kill()
        child.wait()

    retention.carry_out(run, plan(checkpoints.scan(run), Policy(1)), tell)
    assert held and steps_of(run) == [20]


# -- what was set aside ----------------------------------------------------------------


def test_clearing_what_was_set_aside_leaves_what_is_no_checkpoint(tmp_path: Path) -> None:
    run = many(tmp_path, [10])
    for name in ("20241110_140000", "20241111_140000"):
        many(run.superseded / name, [20, 30])
    (run.superseded / "20241111_140000" / "notes.txt").write_text("mine")
    retention.clear_superseded(run)
    assert [str(p.relative_to(tmp_path)) for p in run.superseded.rglob("*")] == [
        "superseded/20241111_140000",
        "superseded/20241111_140000/notes.txt",
    ]
    assert steps_of(run) == [10]


def test_what_a_live_training_resumed_from_is_not_cleared(tmp_path: Path) -> None:
    run = many(tmp_path, [10])
    many(run.superseded / "20241110_140000", [20, 30])
    resumed = run.superseded / "20241110_140000" / "checkpoint-20"
    live(run, 20, resume_from=str(resumed), resume_step=20)
    retention.clear_superseded(run)
    assert [path.name for path in run.superseded.glob("*/*")] == ["checkpoint-20"]


def test_leftovers_of_an_interrupted_clearing_are_swept(tmp_path: Path) -> None:
    run = many(tmp_path, [10])
    half = run.superseded / "20241110_140000" / ".leviathan-deleting-checkpoint-20-2"
    half.mkdir(parents=True)
    assert retention.leftovers(run) == [half]
    retention.sweep(run)
    assert not half.exists()
