"""What a run does now: one look, and looking again."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path

import pytest

from leviathan_train.launch.activity import Activity, Feed, Rest, look
from leviathan_train.run.folder import Run
from leviathan_train.run.records import End, Ending, Phase, RequestKind
from leviathan_train.run.session import Session
from leviathan_train.ui import values
from support import shapes
from support.runs import begin, begin_after, end_session, seal, tell


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "leviathan_10pct_a4000")


@pytest.fixture
def training(run: Run) -> tuple[Run, Session]:
    session = begin(run)
    tell(run, session)
    seal(run, 1000)
    return run, session


def test_a_look_tells_all_of_a_live_run(training: tuple[Run, Session]) -> None:
    run, session = training
    now = look(run)
    assert (now.phase, now.training, now.over) == (Phase.TRAINING, True, False)
    assert (now.step, now.max_steps, now.share) == (1500, 3525, 1500 / 3525)
    assert (now.loss, now.eval_loss, now.grad_norm) == (1.0006, 1.1006, 0.412)
    assert now.learning_rate == 1.7e-4 and now.eta_seconds == 7472.0
    assert now.checkpoint is not None and now.checkpoint.name == "checkpoint-1000"
    assert now.sessions == 1 and now.session == session and now.status.next_save_step == 2000


def test_status_and_the_screens_say_the_same(training: tuple[Run, Session]) -> None:
    run, _ = training
    now = look(run)
    value = json.loads(values.dumps(values.status(now)))
    for name in ("phase", "step", "max_steps", "epoch", "loss", "eval_loss", "eta_seconds"):
        assert value[name] == getattr(now, name), name
    assert value["last_checkpoint"] == "checkpoint-1000" and value["pid"] == os.getpid()


def test_a_loss_of_zero_is_a_loss_and_one_before_the_first_log_is_the_checkpoints(
    training: tuple[Run, Session],
) -> None:
    run, session = training
    tell(run, session, loss=0.0, eval_loss=None)
    now = look(run)
    assert now.loss == 0.0 and now.eval_loss == 1.4


def test_a_number_that_is_none_is_null_in_json(training: tuple[Run, Session]) -> None:
    run, session = training
    tell(run, session, loss=math.nan)
    now = look(run)
    assert now.loss is not None and math.isnan(now.loss)
    assert values.status(now)["loss"] is None


def test_a_file_that_did_not_change_is_not_read_again(training: tuple[Run, Session]) -> None:
    run, session = training
    feed = Feed(run)
    assert feed.look().step == 1500
    stat = session.status_file.stat()
    with session.status_file.open("r+") as stream:
        text = stream.read().replace('"step": 1500', '"step": 1666')
        stream.seek(0)
        stream.write(text)
    os.utime(session.status_file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert feed.look().step == 1500
    tell(run, session, step=1700)
    assert feed.look().step == 1700


def test_a_request_to_end_is_told_once_it_is_left(training: tuple[Run, Session]) -> None:
    run, session = training
    feed = Feed(run)
    assert feed.look().asked is None
    session.ask(RequestKind.SAVE, "leviathan save")
    assert feed.look().asked is None
    session.ask(RequestKind.PAUSE, "leviathan pause", 300)
    asked = feed.look().asked
    assert asked is not None and asked.by == "leviathan pause"
    assert values.status(feed.look())["pausing"] is True


def test_a_run_between_two_sessions_of_one_command_is_not_over(
    training: tuple[Run, Session],
) -> None:
    run, session = training
    feed = Feed(run)
    session.close(End(Ending.CRASHED, 1500, None, "OSError: no", time.time()))
    now = feed.look()
    assert now.phase is Ending.CRASHED and not now.training
    assert not now.over, "the command that started it lives and may start it again"
    following = begin_after(run, session, 1000)
    tell(run, following, phase="model", step=0)
    now = feed.look()
    assert now.phase is Phase.MODEL and now.sessions == 2 and now.end is None


def test_an_end_is_told_and_speed_is_not(training: tuple[Run, Session]) -> None:
    run, session = training
    end_session(session, End(Ending.PAUSED, 1501, "checkpoint-1501", "Ctrl+C", time.time()))
    now = look(run)
    assert now.over and now.phase is Ending.PAUSED
    assert now.steps_per_second is None and now.eta_seconds is None
    value = values.status(now)
    assert value["end"]["checkpoint"] == "checkpoint-1501" and value["pid"] is None


def test_a_run_of_plain_axolotl_and_an_empty_folder_are_over(run: Run) -> None:
    run.path.mkdir()
    assert look(run).over and look(run).phase is Rest.EMPTY
    shapes.make(run.path, 500)
    now = look(run)
    assert now.over and now.phase is Rest.ENDED and now.step == 500 and now.loss is not None
    assert now.checkpoint is not None and now.checkpoint.state == "unsealed"


def test_the_newest_checkpoint_is_the_newest_intact_one(run: Run) -> None:
    for step in (10, 20, 30):
        shapes.make(run.path, step, sealed=True)
    feed = Feed(run)
    assert names(feed.look()) == "checkpoint-30"
    (run.path / "checkpoint-20" / "optimizer.pt").unlink()
    shutil.rmtree(run.path / "checkpoint-30")
    assert names(feed.look()) == "checkpoint-10" == names(look(run))


def names(now: Activity) -> str:
    return now.checkpoint.name if now.checkpoint else ""


def test_records_of_another_version_or_broken_ones_do_no_harm(run: Run) -> None:
    session = begin(run)
    session.status_file.write_text('{"run": "x", "phase": "training", "pid": 1, "host": "h",')
    (run.checkpoint(7)).mkdir()
    (run.checkpoint(7) / "leviathan.json").write_text("{")
    now = look(run)
    assert now.phase is Phase.STARTING and now.checkpoint is None and now.step == 0
