"""The live screen: what is gathered, how it is drawn, and how it ends."""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pexpect
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from leviathan_train.checkpoints.store import Checkpoint, Facts
from leviathan_train.launch.activity import Activity
from leviathan_train.run.folder import Run
from leviathan_train.run.records import (
    Begin,
    End,
    Ending,
    Launch,
    Phase,
    Request,
    RequestKind,
    Status,
)
from leviathan_train.run.session import Session
from leviathan_train.system.gpu import Gpu, Nvml, used_by, visible
from leviathan_train.ui.dashboard.chart import chart, recent, spark
from leviathan_train.ui.dashboard.curves import Curve
from leviathan_train.ui.dashboard.draw import Page
from leviathan_train.ui.dashboard.snapshot import Camera, Snapshot
from leviathan_train.ui.dashboard.watch import line, summary
from support.runs import begin, begin_after, end_session, log, seal, tell

ROOT = Path(__file__).resolve().parents[3]
LEVIATHAN = [sys.executable, "-c", "from leviathan_train.cli import main; main()"]
NAME = "leviathan_10pct_a4000"
A4000 = Gpu(0, "NVIDIA RTX A4000", 15 * 2**30, 16 * 2**30, 98)
NOON = datetime(2024, 11, 12, 12, 0).timestamp()
ESCAPE = "\x1b"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / NAME)


@pytest.fixture
def training(run: Run) -> tuple[Run, Session]:
    session = begin(run)
    log(session, range(10, 1501, 10))
    tell(run, session)
    seal(run, 1000)
    return run, session


@pytest.fixture
def now() -> Snapshot:
    """A run in the middle of a night on a GPU."""
    points = tuple((step, 1 + math.exp(-step / 200)) for step in range(10, 1501, 10))
    run = Run(Path("work/training") / NAME)
    status = Status(
        pid=1234567,
        host="workstation",
        phase=Phase.TRAINING,
        step=1500,
        max_steps=3525,
        epoch=0.4255,
        loss=1.23,
        eval_loss=1.312,
        learning_rate=1.7e-4,
        grad_norm=0.412,
        steps_per_second=0.271,
        eta_seconds=7472.0,
        next_save_step=2000,
        next_save_at=NOON + 1020,
        updated=NOON,
    )
    newest = Checkpoint(
        run.checkpoint(1500), 1500, Facts(1500), "intact", "", 487 * 2**20, NOON - 720
    )
    started = NOON - 4 * 3600
    activity = Activity(
        at=NOON,
        run=run,
        session=Session(run.sessions_folder / "20241112_080000"),
        sessions=4,
        training=True,
        over=False,
        launch=Launch(started=started, config=f"configs/{NAME}.yaml", cwd=os.getcwd()),
        begin=Begin(started, 1300),
        status=status,
        checkpoint=newest,
    )
    return Snapshot(
        activity,
        target=NAME,
        losses=points,
        eval_losses=points[9::10],
        learning_rates=tuple((step, 2e-4 * (1 - step / 3525)) for step, _ in points),
        gpus=(A4000,),
        disk_free_bytes=212 * 2**30,
        lines=("Step 1490: loss=1.2400", "Step 1500: loss=1.2300 ✅ " + "x" * 300),
    )


def having(now: Snapshot, **changes: Any) -> Snapshot:
    """`now` with other values, each wherever it belongs."""
    owners = (now, now.activity, now.activity.status, now.activity.launch)
    parts = []
    for owner in owners:
        names = {item.name for item in fields(owner)} & changes.keys()
        parts.append({name: changes.pop(name) for name in names})
    assert not changes
    status = replace(now.activity.status, **parts[2])
    launch = replace(now.activity.launch, **parts[3])
    activity = replace(now.activity, status=status, launch=launch, **parts[1])
    return replace(now, activity=activity, **parts[0])


def drawn(now: Snapshot, width: int, height: int, *, plain: bool = False) -> str:
    return "\n".join(text.plain for text in Page(now, plain=plain).lines(width, height))


# -- what is gathered -----------------------------------------------------------------


def snapshot(run: Run) -> Snapshot:
    return Camera(run).look()


def test_a_snapshot_holds_curves_lines_and_the_room_on_the_disk(
    training: tuple[Run, Session],
) -> None:
    run, session = training
    session.screen_file.write_text("Step 1490: loss=1.2\nStep 1500: loss=1.1\nhalf a li")
    now = snapshot(run)
    assert now.activity.step == 1500 and now.target == run.name
    assert len(now.losses) == 150
    assert now.losses[-1] == (1500, 1 + math.exp(-1500 / 200)), "in full precision"
    assert [step for step, _ in now.eval_losses] == list(range(100, 1501, 100))
    assert now.learning_rates[-1] == (1500, 1.7e-4)
    assert now.lines == ("Step 1490: loss=1.2", "Step 1500: loss=1.1")
    newest = now.activity.checkpoint
    assert newest is not None and now.disk_free_bytes is not None
    assert now.room == now.disk_free_bytes // newest.bytes


def test_new_numbers_are_read_on_and_half_a_line_is_left(training: tuple[Run, Session]) -> None:
    run, session = training
    camera = Camera(run)
    assert camera.look().losses[-1][0] == 1500
    with session.metrics_file.open("a") as stream:
        stream.write('{"step": 1510, "loss": 1.5}\n{"step": 1520, "lo')
    assert camera.look().losses[-1] == (1510, 1.5)
    with session.metrics_file.open("a") as stream:
        stream.write('ss": 1.4}\n{"step": "x", "loss": 1}\n{"step": 1530, "loss": "?"}\n\nlast')
    assert camera.look().losses[-1] == (1520, 1.4)


def test_a_look_is_cheap_however_long_the_run(training: tuple[Run, Session]) -> None:
    run, session = training
    log(session, range(1510, 40_000))
    camera = Camera(run)
    camera.look()
    began = time.process_time()
    for _ in range(10):
        camera.look()
    assert (time.process_time() - began) / 10 < 0.02


def test_the_curves_go_on_from_earlier_sessions_without_what_was_left(run: Run) -> None:
    first = begin(run)
    log(first, range(10, 301, 10))
    second = begin_after(run, first, 200)
    log(second, range(210, 251, 10), lambda step: 5.0)
    now = snapshot(run)
    assert [step for step, _ in now.losses] == list(range(10, 251, 10))
    assert [value for step, value in now.losses if step > 200] == [5.0] * 5
    third = begin_after(run, second, 0)
    log(third, range(10, 31, 10))
    assert [step for step, _ in snapshot(run).losses] == [10, 20, 30]


def test_the_curves_of_the_ninth_and_the_tenth_session_of_a_second_are_in_order(run: Run) -> None:
    ninth = begin(run)
    log(ninth, range(10, 101, 10))
    tenth = begin_after(run, ninth, 100)
    log(tenth, range(110, 151, 10))
    for number, session in ((9, ninth), (10, tenth)):
        session.path.rename(session.path.with_name(f"20200101_200000_{number}"))
    assert [step for step, _ in snapshot(run).losses] == list(range(10, 151, 10))


def test_a_camera_follows_the_run_into_its_next_session(training: tuple[Run, Session]) -> None:
    run, session = training
    session.screen_file.write_text("of the first\n")
    camera = Camera(run)
    camera.look()
    session.close(End(Ending.CRASHED, 1500, None, "OSError: no", time.time()))
    waiting = camera.look()
    assert "crashed, waiting to restart" in drawn(waiting, 80, 24)
    following = begin_after(run, session, 1000)
    tell(run, following, phase="model", step=0)
    now = camera.look()
    assert now.activity.sessions == 2 and now.losses[-1][0] == 1000 and now.lines == ()


def test_the_curve_of_a_session_of_version_0_1_0_comes_from_its_lines(tmp_path: Path) -> None:
    old = ROOT / "tests/data/first_house/run"
    now = snapshot(Run(Path(shutil.copytree(old, tmp_path / "run"))))
    assert now.losses and now.losses[-1][0] <= 6 and now.activity.step == 6


def test_what_the_trainer_tells_does_no_harm_to_the_terminal(run: Run) -> None:
    session = begin(run)
    session.screen_file.write_bytes(b"\xff\xfe Step 3: loss=1\n\x1b[2JStep 4: loss=nan\n")
    assert not any(ESCAPE in text for text in snapshot(run).lines)


def test_a_loss_that_is_no_number_is_shown_but_not_drawn(run: Run) -> None:
    session = begin(run)
    log(session, range(10, 200, 10))
    log(session, range(200, 230, 10), lambda step: math.nan)
    tell(run, session, loss=math.nan)
    now = snapshot(run)
    assert now.losses[-1][0] == 190
    page = Page(now).lines(80, 24)
    title = next(text for text in page if text.plain.startswith(" Loss"))
    assert "nan" in title.plain and any("red" in str(span.style) for span in title.spans)


@given(st.integers(1, 5000))
def test_a_curve_stays_small_and_keeps_its_mean(count: int) -> None:
    curve = Curve(64)
    for step in range(count):
        curve.add(step, 2.0)
        curve.add(step, math.inf)
    points = curve.points()
    assert 1 <= len(points) <= 65
    assert all(value == 2.0 for _, value in points)
    assert points[-1][0] == count - 1
    assert [step for step, _ in points] == sorted({step for step, _ in points})


class FakeNvml:
    """Two GPUs of a driver, the second of which process 42 uses."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=(handle + 1) * 2**30, total=16 * 2**30)

    def nvmlDeviceGetName(self, handle: int) -> Any:
        return b"NVIDIA RTX A4000" if handle else "NVIDIA RTX A4000"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        if handle == 0:
            raise self.NVMLError
        return SimpleNamespace(gpu=98)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:
        return [SimpleNamespace(pid=42, usedGpuMemory=2**30)] if handle else []


def test_the_gpus_of_the_trainer_are_read_or_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    found = Nvml()()
    a4000 = Gpu(1, "NVIDIA RTX A4000", 2**31, 2**34, 98, ((42, 2**30),))
    assert used_by(frozenset({42, 7}), found) == (a4000,)
    assert [gpu.utilisation for gpu in used_by(frozenset({7}), found)] == [None, 98]
    assert visible(found, "1") == (a4000,)


def test_a_machine_without_nvml_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Nvml()() == ()


# -- how it is drawn ------------------------------------------------------------------


def test_80_by_24_holds_everything_that_one_wants_to_know(now: Snapshot) -> None:
    page = drawn(now, 80, 24)
    assert len(page.splitlines()) == 24 and "…" not in page
    for told in (
        NAME,
        "training",
        "1500 of 3525 (42.6%)",
        "ETA 2h 04m, Tue 12 Nov 14:04",
        "0.271 steps/s (3.69 s a step)",
        "epoch 0.43",
        "Loss 1.23",
        "Eval loss        1.312  best 1.001 at step 1500",
        "1.700e-04",
        "grad norm 0.412",
        "15G of 16G  98% busy  RTX A4000",
        "step 2000 in 30m 45s, or at 12:17 in 17m 00s",
        "checkpoint-1500, 12m 00s ago, 487M",
        "212G free, room for 445 more checkpoints",
        "4 so far, this one since 08:00, 4h 00m",
        f"leviathan pause {NAME}",
        f"leviathan save {NAME}",
        "q closes this screen",
        "^ resumed at 1300",
    ):
        assert told in page, told
    assert len(re.findall("[⠁-⣿]+", page)) >= 5, "a curve over several rows"


def test_200_by_50_uses_the_room(now: Snapshot) -> None:
    lines = drawn(now, 200, 50).splitlines()
    assert len(lines) == 50
    assert sum(bool(re.search("[⠁-⣿]", text)) for text in lines) >= 35
    page = "\n".join(lines)
    for title in ("Loss 1.23", "Eval loss 1.312", "Learning rate 1.700e-04"):
        assert title in page
    assert "Step 1490: loss=1.2400" in page and "1234567 on workstation" in page


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bare": {"losses": (), "eval_losses": (), "learning_rates": (), "gpus": (), "lines": ()},
    "one point": {"losses": ((5, 1.0),), "eval_losses": ((0, 2.0),), "max_steps": 0, "step": 0},
    "pausing": {"asked": Request(RequestKind.PAUSE, "leviathan pause", NOON - 5, 300)},
    "many": {"gpus": (A4000,) * 8, "until": NOON + 9000, "disk_free_bytes": 5},
    "silent": {"updated": NOON - 900, "run": Run(Path("x" * 200)), "target": "y" * 300},
    "wide": {
        "run": Run(Path("訓練✅" * 20)),
        "lines": ("訓練✅" * 90,) * 9,
        "step": 10**9,
        "max_steps": 10**9,
    },
    "over": {"training": False, "end": End(Ending.PAUSED, 3, None, "w\n" * 200, NOON), "pid": 0},
}


@pytest.mark.parametrize("variant", VARIANTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(1, 260), height=st.integers(1, 80), plain=st.booleans())
def test_no_page_goes_beyond_its_terminal(
    now: Snapshot, variant: str, width: int, height: int, plain: bool
) -> None:
    lines = Page(having(now, **VARIANTS[variant]), plain=plain).lines(width, height)
    assert len(lines) <= height
    assert all(text.cell_len <= width for text in lines)
    assert not any("\n" in text.plain for text in lines)


def test_no_name_reaches_the_terminal_raw(now: Snapshot) -> None:
    evil = "a\x1b]0;owned\x07\x1b[2J\x9b2J"
    page = having(now, run=Run(Path(evil)), host=evil, config=evil, target=evil, lines=(evil,))
    for width, height in ((80, 24), (200, 50)):
        for text in Page(page).lines(width, height):
            assert text.plain.isprintable()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
def test_only_colours_that_show_on_light_and_on_dark(
    now: Snapshot, width: int, height: int
) -> None:
    many = having(now, asked=Request(RequestKind.PAUSE, "Ctrl+C", NOON, 300), disk_free_bytes=5)
    lines = [text for page in (now, many) for text in Page(page).lines(width, height)]
    styles = {str(span.style) for text in lines for span in text.spans} - {""}
    assert styles == {"bold", "cyan", "magenta", "green", "red"}


def test_a_terminal_without_braille_gets_ascii(now: Snapshot) -> None:
    for width, height in ((80, 24), (200, 50)):
        page = drawn(now, width, height, plain=True)
        assert page.isascii() and "*" in page and "####" in page


def test_pausing_is_told_with_who_asked_and_the_deadline(now: Snapshot) -> None:
    page = drawn(having(now, asked=Request(RequestKind.PAUSE, "Ctrl+C", NOON - 12, 300)), 80, 24)
    assert "pausing: training" in page and "Asked by Ctrl+C 12s ago; ends within 4m 48s." in page


def test_a_silent_trainer_is_told_with_what_ends_it(now: Snapshot) -> None:
    page = drawn(having(now, updated=NOON - 130, target="demo"), 80, 24)
    assert "No sign of life for 2m 10s. Kill it with:  leviathan stop --now demo" in page


def test_without_nvml_the_trainers_own_memory_is_shown(now: Snapshot) -> None:
    page = drawn(having(now, gpus=(), gpu_memory_bytes=14 * 2**30), 80, 24)
    assert "GPU memory       14G by the trainer" in page


def test_the_page_follows_the_size_of_the_console(now: Snapshot) -> None:
    for width, height in ((80, 24), (200, 50)):
        console = Console(width=width, height=height, force_terminal=True, color_system=None)
        with console.capture() as captured:
            console.print(Page(now), end="")
        assert len(captured.get().split("\n")) == height


points = st.lists(
    st.tuples(st.integers(0, 10**6), st.floats(-1e9, 1e9)), min_size=1, max_size=200
).map(lambda found: sorted(found, key=lambda point: point[0]))


@given(points, st.integers(1, 120), st.integers(1, 30), st.booleans(), st.booleans())
def test_a_chart_fills_its_frame(
    points: list[tuple[int, float]], width: int, height: int, whole: bool, braille: bool
) -> None:
    found = chart(points, width, height, whole=whole, braille=braille)
    assert found is not None
    assert len(found.rows) == height and {len(row) for row in found.rows} == {width}
    assert found.bottom <= found.middle <= found.top
    assert (found.first, found.last) == (points[0][0], points[-1][0])
    assert "".join(found.rows).strip(), "something is drawn"


def test_a_falling_loss_falls_from_the_upper_left_to_the_lower_right() -> None:
    found = chart([(step, 10.0 - step) for step in range(11)], 11, 11, braille=False)
    assert found is not None
    assert [row.index("*") for row in found.rows] == sorted(row.index("*") for row in found.rows)
    assert found.rows[0][0] == "*" and found.rows[-1][-1] == "*"


def test_the_first_fall_of_a_loss_does_not_flatten_the_rest() -> None:
    fall = [(step, 10.0 if step < 3 else 2.0 - step / 1000) for step in range(1000)]
    found = chart(fall, 70, 7)
    assert found is not None and found.top < 2.1
    spiked = [(step, 9.0 if 890 < step < 910 else value) for step, value in fall]
    found = chart(spiked, 70, 7)
    assert found is not None and found.top > 2.1, "a later spike is never cut off"
    whole = chart(fall, 70, 7, whole=True)
    assert whole is not None and whole.top > 2.5


def test_a_curve_that_has_settled_is_drawn_from_there() -> None:
    dice = random.Random(0)
    falling = [(step, 8.0 - step / 200) for step in range(1000)]
    assert recent(falling) == falling
    settled = [
        (step, 2 - step / 10_000 + 6 * math.exp(-step / 60) + dice.gauss(0, 0.02))
        for step in range(1000)
    ]
    shown = recent(settled)
    assert shown == settled[500:] or shown == settled[750:]
    values = [value for _, value in shown]
    assert max(values) - min(values) < 0.2  # a fall of six left a thirtieth of the height to it
    assert recent(settled[:30]) == settled[:30]
    assert recent([]) == []


def test_an_empty_chart_is_none_and_a_spark_keeps_the_last() -> None:
    assert chart([], 10, 5) is None and chart([(1, 1.0)], 0, 5) is None
    assert spark([], 5) == "" and spark([1.0], 0) == ""
    assert spark([9.0, 1.0, 2.0, 3.0], 3) == "▁▅█"
    assert spark([2.0, 2.0], 9) == "▄▄"


# -- how it ends ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "told", "typed"),
    [
        (
            End(Ending.PAUSED, 1501, "checkpoint-1501", "Ctrl+C", NOON),
            "paused at step 1500 of 3525 (42.6%), saved as checkpoint-1501: Ctrl+C",
            f"Resume with:  leviathan train configs/{NAME}.yaml",
        ),
        (
            End(Ending.FINISHED, 3525, None, "training ended by itself", NOON),
            "finished at step 1500, loss 1.23, eval loss 1.312.",
            f"leviathan merge work/training/{NAME}",
        ),
        (
            End(Ending.CRASHED, 1500, None, "CUDA out\nof  memory.", NOON),
            "crashed at step 1500 of 3525 (42.6%): CUDA out of memory.",
            f"work/training/{NAME}/logs/training_20241112_080000.log",
        ),
        (
            End(Ending.KILLED, 1500, None, "the second Ctrl+C", NOON),
            "was killed at step 1500 of 3525 (42.6%): the second Ctrl+C.",
            "Resume from checkpoint-1500 with:  leviathan train",
        ),
        (
            None,
            "ended at step 1500 of 3525 (42.6%); its end was not recorded.",
            "leviathan train configs/",
        ),
    ],
    ids=["paused", "finished", "crashed", "killed", "mute"],
)
def test_the_end_is_told_with_what_to_type_next(
    now: Snapshot, end: End | None, told: str, typed: str
) -> None:
    lines = summary(having(now, training=False, over=True, end=end).activity)
    assert told in lines[0]
    assert typed in "\n".join(lines[1:])


def test_a_run_before_its_first_step_and_one_never_started(now: Snapshot) -> None:
    ended = having(now, training=False, over=True, step=0, checkpoint=None)
    stopped = having(ended, end=End(Ending.STOPPED, None, None, "Ctrl+C", NOON))
    first, then = summary(stopped.activity)
    assert first == f"{NAME} stopped before its first step: Ctrl+C."
    assert then.startswith("Start again with:")
    never = having(ended, session=None, config="")
    assert summary(never.activity) == [
        f"{NAME} is not training yet.",
        "Start it with:  leviathan train CONFIG",
    ]


def test_a_command_started_elsewhere_is_told_with_its_folder(now: Snapshot) -> None:
    ended = having(now, training=False, over=True, cwd="/home/j/my models")
    assert summary(ended.activity)[-1] == (
        f"Resume with:  cd '/home/j/my models' && leviathan train configs/{NAME}.yaml"
    )


def test_a_line_tells_the_run_in_one(now: Snapshot) -> None:
    assert line(now.activity) == (
        "training, step 1500 of 3525 (42.6%), loss 1.23, learning rate 1.700e-04,"
        " 0.271 steps/s, ETA 2h 04m (2024-11-12 14:04:32)"
    )


# -- the command itself ---------------------------------------------------------------


def watch_piped(run: Run, **kwargs: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LEVIATHAN, "status", str(run.path), "--watch"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"FORCE_COLOR": "1"},
        **kwargs,
    )


def test_piped_it_prints_plain_lines_until_the_run_ends(training: tuple[Run, Session]) -> None:
    run, session = training
    watching = watch_piped(run)
    assert watching.stdout is not None
    first = watching.stdout.readline()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d training, step 1500 of 3525 \(42\.6%\)", first)
    tell(run, session, phase="saving", step=1501)
    second = watching.stdout.readline()
    assert "saving, step 1501" in second
    end_session(session, End(Ending.PAUSED, 1501, "checkpoint-1501", "Ctrl+C", time.time()))
    rest, errors = watching.communicate(timeout=20)
    assert watching.returncode == 0 and errors == ""
    assert f"{NAME} paused at step 1501" in rest and "Resume with:  leviathan train" in rest
    assert ESCAPE not in first + second + rest


def test_piped_ctrl_c_ends_it_without_a_word(training: tuple[Run, Session]) -> None:
    watching = watch_piped(training[0])
    assert watching.stdout is not None
    watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    rest, errors = watching.communicate(timeout=20)
    assert (watching.returncode, rest, errors) == (0, "", "")
    assert training[1].end is None and training[1].asked is None


def test_a_run_that_is_over_is_told_at_once(training: tuple[Run, Session]) -> None:
    run, session = training
    end_session(session, End(Ending.FINISHED, 3525, None, "training ended by itself", time.time()))
    out, errors = watch_piped(run).communicate(timeout=20)
    assert errors == "" and f"leviathan merge {run.name}" in out


def on_terminal(
    run: Run, rows: int = 24, columns: int = 80, env: Mapping[str, str] | None = None
) -> pexpect.spawn[str]:
    clean = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "COLUMNS"}}
    return pexpect.spawn(
        LEVIATHAN[0],
        [*LEVIATHAN[1:], "status", str(run.path), "--watch"],
        env=clean | {"TERM": "xterm-256color"} | dict(env or {}),
        encoding="utf-8",
        timeout=20,
        dimensions=(rows, columns),
    )


@pytest.mark.parametrize("leave", ["q", "\x03"], ids=["q", "ctrl-c"])
def test_q_and_ctrl_c_close_only_the_screen(training: tuple[Run, Session], leave: str) -> None:
    run, session = training
    child = on_terminal(run)
    child.expect("closes this screen")
    child.send(leave)
    child.expect(pexpect.EOF)
    child.close()
    last = child.before or ""
    assert child.exitstatus == 0 and "Traceback" not in last
    assert "\x1b[?1049l" in last and "\x1b[?25h" in last, "screen and cursor are given back"
    after = last.rpartition("\x1b[?25h")[2]
    told = f"{NAME} continues: training, step 1500 of 3525 (42.6%), ETA 2h 04m."
    assert told in " ".join(after.split())  # on 80 columns it is folded between words
    assert session.end is None and session.asked is None


def test_the_screen_ends_by_itself_with_the_run(training: tuple[Run, Session]) -> None:
    run, session = training
    child = on_terminal(run, 50, 200)
    child.expect("closes this screen")
    end_session(
        session, End(Ending.PAUSED, 1501, "checkpoint-1501", "leviathan pause", time.time())
    )
    child.expect("paused at step 1500 of 3525")
    child.expect("Resume with:  leviathan train configs/a.yaml")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_sigterm_gives_the_terminal_back(training: tuple[Run, Session]) -> None:
    child = on_terminal(training[0])
    child.expect("closes this screen")
    child.kill(signal.SIGTERM)
    child.expect(pexpect.EOF)
    child.close()
    last = child.before or ""
    assert child.exitstatus == 143 and "\x1b[?1049l" in last
    assert "Traceback" not in last


def test_no_color_is_obeyed(training: tuple[Run, Session]) -> None:
    colour = re.compile("\x1b\\[[0-9;]*3[0-7]m")
    for coloured in (True, False):
        child = on_terminal(training[0], env={} if coloured else {"NO_COLOR": "1"})
        child.expect("closes this screen")
        assert bool(colour.search(child.before or "")) == coloured
        child.send("q")
        child.expect(pexpect.EOF)
        child.close()


@pytest.mark.parametrize("args", [["status"], ["status", "--watch"]], ids=["status", "piped watch"])
def test_rich_is_not_imported_where_nothing_is_drawn(
    training: tuple[Run, Session], args: list[str]
) -> None:
    run, session = training
    end_session(session, End(Ending.PAUSED, 1501, "checkpoint-1501", "Ctrl+C", time.time()))
    code = (
        "import sys\n"
        "from leviathan_train.cli import main\n"
        f"try: main({[*args, str(run.path)]!r})\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "assert 'rich' not in sys.modules and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_picture_in_the_readme_can_be_made_again(tmp_path: Path) -> None:
    out = tmp_path / "status.svg"
    script = ROOT / "scripts" / "make_picture.py"
    done = subprocess.run([sys.executable, script, "--out", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made, kept = (path.read_text("utf-8") for path in (out, ROOT / "docs" / "status.svg"))
    words = re.compile(r">([^<>]*)</text>")
    assert words.findall(made) == words.findall(kept)
    assert "https://" not in made.replace("https://www.textualize.io", "")
