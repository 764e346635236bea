"""What an end means: the exit status, the cause in a log, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from leviathan_train.launch import outcome
from leviathan_train.run.folder import Run
from leviathan_train.run.log import cause_in
from leviathan_train.run.records import Cause, End, Ending
from support import shapes


def end(kind: Ending, cause: Cause, why: str = "") -> End:
    return End(kind, None, None, why, 0.0, cause)


@pytest.mark.parametrize(
    ("kind", "cause", "status"),
    [
        (Ending.FINISHED, Cause.DONE, 0),
        (Ending.PAUSED, Cause.DEADLINE, 75),
        (Ending.CRASHED, Cause.FAULT, 1),
        (Ending.CRASHED, Cause.CONFIG, 2),
        (Ending.CRASHED, Cause.UPSTREAM, 2),
    ],
)
def test_an_end_has_its_exit_status(
    tmp_path: Path, kind: Ending, cause: Cause, status: int
) -> None:
    run = Run(tmp_path)
    assert outcome.exit_status(run, end(kind, cause)) == status
    if kind is Ending.CRASHED:
        assert outcome.failure(run, end(kind, cause), tmp_path).exit_code == status


AT_START = [
    *("adapter_config.json", "config.json", "debug.log", "tokenizer.json", "tokenizer.model"),
    *("chat_template.jinja", "preprocessor_config.json", "generation_config.json", "vocab.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
]


@pytest.mark.parametrize("other", [None, "adapter_model.safetensors", "config.yaml", "my/file"])
def test_a_failed_start_leaves_nothing_but_what_is_not_its_own(
    tmp_path: Path, other: str | None
) -> None:
    run = Run(tmp_path / "run")
    for name in [*AT_START, "logs/training_1.log", ".leviathan/run.json", *filter(None, [other])]:
        file = run.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    kept = outcome.discard(run, run.logs / "training_1.log")
    assert kept.read_text() == "x"
    kept.unlink()
    assert run.path.exists() == (other is not None)
    if other:
        assert (run.path / other).is_file()


def test_a_full_disk_is_a_pause_if_there_is_something_to_resume_from(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    full = end(Ending.CRASHED, Cause.DISK, "no space left on the disk for checkpoint-20")
    assert outcome.exit_status(run, full) == 1
    assert outcome.failure(run, full, tmp_path).exit_code == 1
    shapes.make(run.path, 10)
    assert outcome.exit_status(run, full) == 75
    told = outcome.failure(run, full, tmp_path / "log", "leviathan train a.yaml")
    assert told.exit_code == 75
    assert told.message == (
        "Training stopped: no space left on the disk for checkpoint-20. checkpoint-10 is intact."
    )
    assert f"leviathan checkpoints cleanup {run.path} --keep 1" in str(told.hint)
    assert "then resume with:  leviathan train a.yaml" in str(told.hint)


@pytest.mark.parametrize("kind", [Ending.STOPPED, Ending.KILLED])
def test_what_was_stopped_can_be_resumed_or_not(tmp_path: Path, kind: Ending) -> None:
    run = Run(tmp_path)
    assert outcome.exit_status(run, end(kind, Cause.PERSON)) == 130
    shapes.make(tmp_path, 10)
    assert outcome.exit_status(run, end(kind, Cause.PERSON)) == 75


@pytest.mark.parametrize(
    ("log", "why", "cause"),
    [
        (
            "x\n[rank1]: torch.OutOfMemoryError: CUDA\n",
            "torch.OutOfMemoryError: CUDA",
            "gpu memory",
        ),
        ("pydantic.ValidationError: 2 errors\n", "pydantic.ValidationError: 2 errors", "config"),
        ("KeyError: 'a'\nsubprocess.CalledProcessError: x\n", "KeyError: 'a'", "fault"),
        (
            "usage: accelerate\nAccelerate launch command: error: unrecognized arguments: --foo\n",
            "unrecognized arguments: --foo",
            "usage",
        ),
        ("Signal 9 (SIGKILL)\n", "killed by SIGKILL", "died"),
        ("all is well\n", "without an error message", "died"),
    ],
)
def test_the_last_error_of_a_log_is_the_cause(
    tmp_path: Path, log: str, why: str, cause: str
) -> None:
    path = tmp_path / "log"
    path.write_text(log)
    told, found = cause_in(path)
    assert why in told and "\n" not in told
    assert found == cause


def test_the_advice_hangs_on_the_cause_and_not_on_the_words(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    words = "no space left, CUDA out of memory, plugin"
    advice = {cause: outcome.advice(run, end(Ending.CRASHED, cause, words)) for cause in Cause}
    assert "micro_batch_size" in advice[Cause.GPU_MEMORY]
    assert f"leviathan checkpoints cleanup {run.path} --keep 1" in advice[Cause.DISK]
    assert "can import leviathan_train" in advice[Cause.PLUGIN]
    assert advice[Cause.FAULT] == advice[Cause.UNKNOWN] != advice[Cause.DIED]


def test_a_cause_of_several_lines_is_told_in_one(tmp_path: Path) -> None:
    crash = end(Ending.CRASHED, Cause.FAULT, "RuntimeError: a\n  b")
    error = outcome.failure(Run(tmp_path), crash, tmp_path / "log")
    assert error.message == "Training failed: RuntimeError: a b"
    crash = end(Ending.CRASHED, Cause.FAULT, "word " * 200)
    told = outcome.failure(Run(tmp_path), crash, tmp_path / "log").message
    assert len(told) < 300 and told.endswith("...")
