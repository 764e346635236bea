"""Copies on a real S3 server, by ssh and on a disk: what survives, and what is told."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults import bench
from leviathan_train.checkpoints import store
from leviathan_train.mirror import client
from leviathan_train.mirror.copies import CopyState
from leviathan_train.mirror.place import URL_ENV, Place
from leviathan_train.run.folder import Run
from support import shapes
from support.disks import disk_of
from support.driver import leviathan, start, train
from support.stores import Server, s3, sftp

PLACES = ("s3", "file")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3(tmp_path_factory.mktemp("s3")) as made:
        yield made


@pytest.fixture
def s3_env(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path, server: Server, s3_env: None) -> str:
    """A place of this test alone."""
    kind = getattr(request, "param", "s3")
    return f"file://{tmp_path}/there" if kind == "file" else f"{server.url}/{tmp_path.name}"


def run_of(folder: Path, *steps: int) -> Run:
    for step in steps:
        shapes.make(folder, step, sealed=True)
    return Run(folder)


def push(run: Run, url: str, *more: str, check: int | None = 0) -> str:
    done = leviathan(
        *("checkpoints", "push", str(run.path), "--mirror", url, *more),
        cwd=run.path,
        env=os.environ,
    )
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done.stdout + done.stderr


def pull(
    folder: Path, url: str, *more: str, check: int | None = 0
) -> subprocess.CompletedProcess[str]:
    words = ("checkpoints", "pull", str(folder), "--mirror", url, *more)
    done = leviathan(*words, cwd=folder.parent, env=os.environ)
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done


def same(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same bytes."""
    return subprocess.run(["diff", "-r", one, other], capture_output=True).returncode == 0


@pytest.mark.parametrize("url", PLACES, indirect=True)
def test_what_is_pushed_comes_back_byte_for_byte(tmp_path: Path, url: str) -> None:
    run = run_of(tmp_path / "here/run", 10, 20)
    told = push(run, url)
    assert "2 checkpoints copied, 0 there already" in told
    assert "0 checkpoints copied, 2 there already" in push(run, url)
    other = tmp_path / "elsewhere/run"
    other.parent.mkdir()
    assert f"Fetched and verified: {other}/checkpoint-20" in pull(other, url).stdout
    pull(other, url, "--step", "10")
    for step in (10, 20):
        assert same(run.checkpoint(step), Run(other).checkpoint(step))
    assert "has what is newest" in pull(other, url).stdout
    assert {item.state for item in store.scan(Run(other), store.Read.ALL)} == {"intact"}
    for place in (run.path, other):
        shown = leviathan("checkpoints", "list", str(place), cwd=tmp_path, env=os.environ)
        assert f"{url}: up to step 20 (2 checkpoints)" in shown.stdout


def test_ssh_serves_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sftp(tmp_path / "ssh", monkeypatch) as url:
        run = run_of(tmp_path / "here/run", 10, 20)
        push(run, url)
        shutil.rmtree(run.path)
        pull(run.path, url)
        assert [item.step for item in store.scan(run, store.Read.ALL) if item.intact] == [20]


@pytest.mark.parametrize("url", PLACES, indirect=True)
def test_a_tampered_copy_is_never_taken_over(tmp_path: Path, url: str, server: Server) -> None:
    run = run_of(tmp_path / "here/run", 10, 20)
    push(run, url)
    file = f"{url}/run/checkpoint-20/optimizer.pt"
    script = (
        "import sys, fsspec; fs, path = fsspec.url_to_fs(sys.argv[1]); text = fs.cat_file(path);"
        "fs.pipe_file(path, text[:99] + bytes([text[99] ^ 1]) + text[100:])"
    )
    subprocess.run([sys.executable, "-c", script, file], check=True)
    other = tmp_path / "elsewhere/run"
    other.parent.mkdir()
    done = pull(other, url, check=1)
    assert "checkpoint-20" in done.stderr and "optimizer.pt has changed" in done.stderr
    assert store.folders(Run(other)) == []
    pull(other, url, "--step", "10")
    assert same(run.checkpoint(10), Run(other).checkpoint(10))


def test_what_another_machine_wrote_is_not_replaced_by_hand_without_yes(
    tmp_path: Path, url: str
) -> None:
    mine, other = run_of(tmp_path / "here/run", 10), run_of(tmp_path / "elsewhere/run", 10)
    push(other, url)
    _claim(url, other)
    told = push(mine, url, check=1)
    assert "holds another checkpoint-10, written by" in told and "--yes" in told
    assert "1 checkpoint copied" in push(mine, url, "--yes")


def _claim(url: str, run: Run) -> None:
    """Let a run's folder be the one that writes at a place."""
    script = (
        "import sys; from pathlib import Path; from leviathan_train.mirror.remote import *;"
        "from leviathan_train.mirror.watch import writer_of; from leviathan_train.run.folder import"
        " Run; run = Run(Path(sys.argv[2])); Remote(Place(sys.argv[1], run.name)).claim("
        "Owner(writer_of(run), 'host2', str(run.path), 1.0))"
    )
    subprocess.run([sys.executable, "-c", script, url, str(run.path)], check=True)


def _watch(run: Run, url: str) -> subprocess.Popen[bytes]:
    """The mirror's process, as a training starts it."""
    module = [sys.executable, "-m", "leviathan_train.jobs.mirror", "watch", str(run.path)]
    return subprocess.Popen(
        [*module, "--beat", "0.5"],
        env=os.environ | {URL_ENV: url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.parametrize("url", ["file", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_a_copy_that_is_killed_at_any_moment_never_passes_for_a_whole_one(
    tmp_path: Path, url: str
) -> None:
    seed = bench.seed()
    dice = random.Random(seed)
    run = Run(tmp_path / "here/run")
    place = Place(url, "run")
    steps = iter(range(10, 1000, 10))
    for round_ in range(5):
        for _ in range(2):
            shapes.make(run.path, next(steps), sealed=True)
        watcher = _watch(run, url)
        time.sleep(dice.uniform(1.0, 3.5))
        os.killpg(watcher.pid, signal.SIGKILL)
        watcher.wait()
        for copy in client.look(place, run)[0]:
            if copy.state is CopyState.WHOLE:
                other = tmp_path / f"other-{round_}/run"
                other.mkdir(parents=True, exist_ok=True)
                pull(other, url, "--step", str(copy.step))
                assert same(run.checkpoint(copy.step), Run(other).checkpoint(copy.step)), seed
                break
    _watch(run, url).wait()
    whole = {copy.step for copy in client.look(place, run)[0] if copy.state is CopyState.WHOLE}
    assert whole == {step for step, _ in store.folders(run)}, seed


def test_a_disk_without_room_is_told_before_anything_comes(tmp_path: Path, url: str) -> None:
    run = run_of(tmp_path / "here/run", 10)
    big = run.checkpoint(10) / "optimizer.pt"
    os.truncate(big, 24 << 20)
    (run.checkpoint(10) / store.SEAL).unlink()
    shapes.seal(run.checkpoint(10))
    push(run, url)
    with disk_of(tmp_path / "disk", "16m") as disk:
        other = disk / "run"
        done = pull(other, url, check=1)
        assert "No room for checkpoint-10" in done.stderr and "goes on" in done.stderr
        assert store.folders(Run(other)) == []
        subprocess.run(["mount", "-o", "remount,size=48m", str(disk)], check=True)
        pull(other, url)
        assert same(run.checkpoint(10), Run(other).checkpoint(10))


def test_an_interrupted_fetch_goes_on_where_it_ended(tmp_path: Path, url: str) -> None:
    run = run_of(tmp_path / "here/run", 10)
    push(run, url)
    other = Run(tmp_path / "elsewhere/run")
    (copy,) = client.look(Place(url, "run"), run)[0]
    begun = other.mirror_folder / f"incoming/checkpoint-10-{copy.seal_sha[:12]}"
    begun.mkdir(parents=True)
    half = (run.checkpoint(10) / "optimizer.pt").read_bytes()
    (begun / "optimizer.pt").write_bytes(half[: len(half) // 2])
    (begun / "trainer_state.json").write_bytes(b"of another one")
    pull(other.path, url)
    assert same(run.checkpoint(10), other.checkpoint(10))
    assert not (other.mirror_folder / "incoming").exists()


@pytest.mark.parametrize(
    ("place", "env", "status", "words"),
    [
        ("s3://nothing-there/x", {}, 2, "bucket does not exist"),
        ("s4://bucket/x", {}, 2, "s4:// is not a known protocol"),
        ("s3://runs/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 1, "Could not connect"),
        ("s3://runs/x", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, 2, "credentials"),
        ("file:///proc/none", {}, 2, "/proc/none"),
    ],
    ids=["no bucket", "no protocol", "no server", "no credentials", "no right to write"],
)
def test_a_place_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, s3_env: None, place: str, env: dict[str, str], status: int, words: str
) -> None:
    run = run_of(tmp_path / "run", 10)
    done = leviathan(
        *("checkpoints", "push", run.path, "--mirror", place),
        cwd=tmp_path,
        env=os.environ | env | {"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "HOME": str(tmp_path)},
    )
    assert done.returncode == status, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert store.scan(run, store.Read.ALL)[0].intact


@pytest.mark.train
def test_a_run_whose_machine_is_gone_goes_on_elsewhere_as_if_nothing_had_been(
    tmp_path: Path, url: str
) -> None:
    """The folder is deleted amid training; the credentials are written nowhere."""
    made = bench.make(tmp_path / "bench", max_steps=40, save_steps=5, eval_steps=20)
    env = dict(made.env) | {name: os.environ[name] for name in os.environ if name[:4] == "AWS_"}
    here = tmp_path / "here/run"
    here.parent.mkdir()
    made.copy(here)
    to_run = ("--set", "save_total_limit=2", "--resume", "auto", "--mirror", url)
    started = start(made.config, "--set", f"output_dir={here}", *to_run, env=env, run=here)
    started.step(11)
    os.kill(started.pid("rank0"), signal.SIGSTOP)  # it must not end before a copy is there
    place = Place(url, "run")
    deadline = time.monotonic() + 120
    while not any(copy.state is CopyState.WHOLE for copy in client.look(place, Run(here))[0]):
        assert time.monotonic() < deadline
    _the_machine_is_gone(here)
    started.finish()
    there = tmp_path / "there/run"
    output = train(made.config, "--set", f"output_dir={there}", *to_run, env=env, run=there)
    fetched = re.search(r"Fetched and verified checkpoint-(\d+)", output)
    assert fetched and int(fetched[1]) < 20
    assert "✅ Same rows in the same order" in output
    assert "writes there, too; nothing is copied until that ends" in output
    push(Run(there), url)
    assert made.wrong(Run(there).path) == []
    newest = store.latest(store.scan(Run(there)))
    assert newest and newest.step == 40
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert not _mentions(there, secret)
    listed = json.loads(
        leviathan("checkpoints", "list", there, "--json", cwd=tmp_path, env=env, check=0).stdout
    )
    assert listed["mirror"]["url"] == url and "here/run" in listed["mirror"]["other"]
    assert 40 in {copy.step for copy in client.look(place, Run(there))[0]}


def _the_machine_is_gone(run: Path) -> None:
    """Every process of it dies at once, and its disk is gone."""
    found = subprocess.run(["pgrep", "-f", str(run)], capture_output=True, text=True).stdout.split()
    for pid in found:
        if int(pid) != os.getpid():
            os.kill(int(pid), signal.SIGKILL)
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(run, ignore_errors=True)


def _mentions(folder: Path, secret: str) -> bool:
    return any(secret.encode() in file.read_bytes() for file in folder.rglob("*") if file.is_file())


@pytest.mark.train
def test_a_place_that_goes_away_never_stops_a_training(tmp_path: Path) -> None:
    made = bench.make(tmp_path / "bench", max_steps=30, save_steps=5, eval_steps=30)
    run = tmp_path / "here/run"
    run.parent.mkdir()
    made.copy(run)
    with s3(tmp_path / "s3") as server:
        env = dict(made.env) | dict(server.env)
        arguments = (*made.arguments(run), "--mirror", server.url)
        started = start(made.config, *arguments, env=env, run=run)
        started.step(6)
        server.stop()
        status, output = started.finish()
    assert status == 0, output
    assert made.wrong(run) == []
    assert "is not at s3://" in output and "leviathan checkpoints push" in output
    again = leviathan(*("status", run, "--json"), cwd=tmp_path, env=env, check=0)
    mirror = json.loads(again.stdout)["mirror"]
    assert mirror["trouble"] and "30" not in map(str, mirror["steps"])
    subprocess.run(["pkill", "-9", "-f", f"jobs.mirror watch {run}"])
    with s3(tmp_path / "s3", port=server.port):
        told = leviathan("checkpoints", "push", run, "--mirror", server.url, cwd=tmp_path, env=env)
        assert "copied" in told.stdout, told.stderr
