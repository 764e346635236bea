"""`leviathan plot`: what is drawn is what was logged, branch by branch."""

from __future__ import annotations

import json
import math
import shutil
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from leviathan_train.run import metrics
from leviathan_train.run.folder import Run
from leviathan_train.run.records import SeamWord, Verdict
from leviathan_train.run.session import Session
from leviathan_train.system.files import write_json
from leviathan_train.ui.plot import data, page
from leviathan_train.ui.plot.data import Curve
from support import browser as browsers
from support import shapes
from support.driver import leviathan
from support.runs import begin, begin_after, log

FIRST_HOUSE = Path(__file__).resolve().parents[2] / "data/first_house/run"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Trained to 200, resumed from 100 and trained to 300, in one folder below work/training."""
    run = Run(tmp_path / "work/training/demo")
    first = begin(run)
    log(first, range(10, 201, 10), lambda step: 3 - step / 1000)
    second = begin_after(run, first, 100)
    log(second, range(110, 301, 10), lambda step: 2 - step / 1000)
    write_json(second.seam_file, {"word": SeamWord.BROKEN, "cause": "another loss"})
    shapes.make(run.path, 100, sealed=True, evals=50)
    shapes.make(run.path, 300, sealed=True)
    return run


def plotted(folder: Path, env: dict[str, str], *words: str) -> dict[str, Any]:
    done = leviathan("plot", *words, "--json", cwd=folder, env=env, check=0)
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_what_a_resume_replaced_is_a_branch_of_its_own(
    run: Run, tmp_path: Path, env: dict[str, str]
) -> None:
    value = plotted(tmp_path, env)
    (one,) = value["runs"]
    loss = one["curves"]["loss"]
    points = dict(loss["points"])
    assert list(points) == list(range(10, 301, 10))
    assert (points[100], points[110]) == (3 - 0.1, 2 - 0.11)
    (branch,) = loss["superseded"]
    assert [step for step, _ in branch] == list(range(110, 201, 10))
    assert branch[0][1] == 3 - 0.11
    assert [step for step, _ in one["curves"]["eval_loss"]["points"]] == [100, 200, 300]
    marks = [(m["first_step"], m["resumed"], m["verdict"]) for m in one["sessions"]]
    assert marks == [(0, False, None), (100, True, "broken")]
    saved = [(c["step"], c["best"]) for c in one["checkpoints"]]
    assert saved == [(100, True), (300, False)]
    assert value["output"] is None and not list(tmp_path.glob("*.html"))


def test_a_start_over_leaves_all_of_the_first_branch(run: Run) -> None:
    session = begin_after(run, run.sessions()[-1], 0)
    log(session, range(0, 31, 10), lambda step: 9.0)
    curve = data.read(run).curves["loss"]
    assert curve.points == [(step, 9.0) for step in range(0, 31, 10)]
    assert [branch[0][0] for branch in curve.superseded] == [110, 10]


def test_what_plain_axolotl_logged_comes_from_its_newest_state(tmp_path: Path) -> None:
    run = Run(tmp_path / "plain")
    shapes.make(run.path, 100, evals=50)
    (shapes.make(run.path, 110) / "trainer_state.json").write_text('{"log_hist')
    curves = data.read(run).curves
    assert [step for step, _ in curves["loss"].points] == list(range(10, 101, 10))
    assert [step for step, _ in curves["eval_loss"].points] == [50, 100]
    log(begin(run, 60), range(70, 91, 10), lambda step: 7.0)
    assert data.read(run).curves["loss"].points[5:] == [
        (60, 2 - 0.006),
        *((step, 7.0) for step in (70, 80, 90)),
    ]


def test_a_run_of_the_first_version_is_drawn(tmp_path: Path) -> None:
    shutil.copytree(FIRST_HOUSE, tmp_path / "old")
    curves = data.read(Run(tmp_path / "old")).curves
    assert curves["eval_loss"].points[0] == (0, 6.5863)
    assert curves["loss"].points[0] == (2, 6.481)


def test_several_runs_lie_over_one_another_each_once(
    run: Run, tmp_path: Path, env: dict[str, str]
) -> None:
    other = Run(tmp_path / "elsewhere/demo")
    log(begin(other), range(10, 51, 10))
    value = plotted(tmp_path, env, "demo", "elsewhere/demo", "work/training/demo")
    assert [one["run"] for one in value["runs"]] == ["work/training/demo", "elsewhere/demo"] or [
        Path(one["run"]).resolve() for one in value["runs"]
    ] == [run.path, other.path]
    leviathan("plot", "demo", "elsewhere/demo", cwd=tmp_path, env=env, check=0)
    assert (tmp_path / "runs.html").is_file()


def spoil(session: Session) -> None:
    with session.metrics_file.open("a") as stream:
        stream.write(metrics.line(310, 0.0, {"loss": math.nan, "grad_norm": math.inf}))


def test_what_cannot_be_drawn_is_told(run: Run, tmp_path: Path, env: dict[str, str]) -> None:
    spoil(run.sessions()[-1])
    done = leviathan("plot", cwd=tmp_path, env=env, check=0)
    assert "demo: loss was NaN or infinite at 1 logged steps, first at 310." in done.stdout
    assert done.stdout.splitlines()[-1].endswith("logged values: demo.html")
    assert "grad_norm was NaN or infinite" in (tmp_path / "demo.html").read_text()
    assert plotted(tmp_path, env)["runs"][0]["curves"]["loss"]["not_finite"] == [310]


def test_a_run_of_nothing_but_nan_hides_no_other(
    run: Run, tmp_path: Path, env: dict[str, str]
) -> None:
    session = begin(Run(tmp_path / "work/training/lost"))
    spoil(session)
    alone = leviathan("plot", "lost", cwd=tmp_path, env=env, check=2)
    assert "Nothing to draw of lost: all that was logged is NaN or infinite." in alone.stderr
    both = leviathan("plot", "demo", "lost", cwd=tmp_path, env=env, check=0)
    assert "Nothing to draw of lost" in both.stdout
    begin(Run(tmp_path / "work/training/fresh"))
    none = leviathan("plot", "fresh", "lost", cwd=tmp_path, env=env, check=2)
    assert "of fresh: no step was logged yet. Nothing to draw of lost: all" in none.stderr
    assert "demo" in (tmp_path / "demo.html").read_text()


def test_wrong_use_is_told_in_a_line(run: Run, tmp_path: Path, env: dict[str, str]) -> None:
    begin(Run(tmp_path / "work/training/fresh"))
    for words, told in [
        (["demo", "--output", "a.pdf"], ".html, .png or .svg, not .pdf"),
        (["demo", "--output", "no/a.png"], "there is no folder no"),
        (["fresh"], "Nothing to draw of fresh"),
        (["demi"], "Did you mean demo?"),
    ]:
        done = leviathan("plot", *words, cwd=tmp_path, env=env, check=2)
        assert told in done.stderr
        assert len(done.stderr.splitlines()) <= 2


def test_without_matplotlib_a_picture_says_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from leviathan_train.cli import main

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        main(["plot", str(run.path), "--output", str(tmp_path / "a.png")])
    assert end.value.code == 2
    assert "pip install 'leviathan-train[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_picture_is_drawn(run: Run, tmp_path: Path, env: dict[str, str], kind: str) -> None:
    pytest.importorskip("matplotlib")
    strange = Run(tmp_path / "work/training/_a$b$<c>")
    shutil.copytree(run.path, strange.path)
    target = tmp_path / f"out.{kind}"
    done = leviathan("plot", "demo", strange.name, "--output", target, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    if kind == "png":
        with Image.open(target) as picture:
            picture.load()
            assert picture.width > 1000 and picture.height > 800
            colours = picture.convert("RGB").getcolors(1 << 24) or []
            seen = {colour for _, colour in colours}
        assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= seen  # a colour for each run
    else:
        assert xml.etree.ElementTree.parse(target).getroot().tag.endswith("svg")
    assert not list(tmp_path.glob(".out*"))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(2, 100))
def test_a_thinned_curve_has_the_extremes_and_the_ends(values: list[float], most: int) -> None:
    whole = Curve(list(enumerate(values)))
    thin = whole.thinned(most)
    assert len(thin.points) <= min(len(values), most + 4)
    assert set(thin.points) <= set(whole.points)
    assert thin.points == sorted(thin.points)
    assert (thin.points[0], thin.points[-1]) == (whole.points[0], whole.points[-1])
    heights = [value for _, value in thin.points]
    assert (min(heights), max(heights)) == (min(values), max(values))


@pytest.mark.skipif(
    not (browsers.CHROMIUM and browsers.DRIVER), reason="no Chromium with its driver is installed"
)
class TestInABrowser:
    """The page as a person sees it, without a network."""

    def test_it_draws_tells_values_and_zooms(
        self, run: Run, tmp_path: Path, env: dict[str, str]
    ) -> None:
        wicked = Run(run.path.with_name("</script><b>@DATA@"[2:].replace("/", "")))
        shutil.copytree(run.path, wicked.path)
        leviathan("plot", "demo", wicked.path, cwd=tmp_path, env=env, check=0)
        with browsers.browser(tmp_path / "profile") as window:
            window.open(tmp_path / "runs.html")
            assert window.run("return document.body.dataset.drawn") is not None
            assert window.run("return document.querySelectorAll('canvas').length") == 3
            assert window.run("return performance.getEntriesByType('resource').length") == 0
            assert wicked.name in window.run("return document.querySelector('h1').textContent")
            assert window.run("return document.querySelectorAll('b').length") == 0
            tip = "return getComputedStyle(tip).display + tip.textContent"
            assert window.run(tip) == "none"
            x, y = self.place(window, 110)
            window.move(x, y)
            assert window.run(tip).startswith("blockStep 110\ndemo\n  loss 1.89\n")
            window.move(x, y, dragging_to=self.place(window, 150)[0])
            assert window.run("return view.map(Math.round)") == [110, 150]
            self.see_that_something_is_drawn(window, tmp_path)
            assert window.console() == []

    def test_a_hundred_thousand_steps_open_fast(self, tmp_path: Path) -> None:
        run = Run(tmp_path / "long")
        session = begin(run)
        with session.metrics_file.open("w") as stream:
            for step in range(1, 150_001):
                told = {"loss": 1 + math.sin(step / 700) + step % 7 / 20, "grad_norm": step % 9}
                stream.write(metrics.line(step, 0.0, told | {"learning_rate": 1e-4}))
        page.write([data.read(run)], tmp_path / "long.html", at=0.0)
        assert "of each 3 logged values of loss" in (tmp_path / "long.html").read_text()
        with browsers.browser(tmp_path / "profile") as window:
            window.open(tmp_path / "long.html")
            assert float(window.run("return document.body.dataset.drawn")) < 10_000
            drawing = window.run(
                "const t = performance.now(); draw(); return performance.now() - t"
            )
            assert drawing < 5_000
            assert window.console() == []

    @staticmethod
    def place(window: browsers.Browser, step: int) -> tuple[int, int]:
        """Where a step lies in the first panel."""
        script = (
            "const box = figure.getBoundingClientRect();"
            f"return [Math.round(box.left + across({step})), Math.round(box.top + 150)]"
        )
        x, y = window.run(script)
        return x, y

    @staticmethod
    def see_that_something_is_drawn(window: browsers.Browser, folder: Path) -> None:
        (folder / "shot.png").write_bytes(window.picture())
        with Image.open(folder / "shot.png") as picture:
            counts: Any = picture.convert("RGB").getcolors(1 << 24) or []
        coloured = sum(number for number, rgb in counts if max(rgb) - min(rgb) > 100)
        assert coloured > 300


def test_the_verdict_reaches_the_page(run: Run) -> None:
    assert run.sessions()[-1].verdict == Verdict(SeamWord.BROKEN, "another loss")
    assert '"verdict":"broken"' in page.page([data.read(run)], at=0.0)
