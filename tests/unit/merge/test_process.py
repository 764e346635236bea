"""What the command line does with what the merge's own process tells it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from leviathan_train.errors import LeviathanError
from leviathan_train.merge.job import FileWritten, Job, Merged, Progress, Refused, decode, encode
from leviathan_train.merge.process import explained, settle

JOB = Job("b", "a", "/m/.x.merging/merged", True, True, False, None, "auto", False, "none", 1)


@pytest.mark.parametrize(
    "event",
    [
        Progress("merging", 1, 3, "model.safetensors"),
        FileWritten("model.safetensors", "ab"),
        Refused("no", None),
        Merged(3, 2, 0.5, ["lm_head.weight"], {"tokens": 7}, {"torch": "2"}),
    ],
)
def test_an_event_arrives_as_it_was_sent(event: Progress | FileWritten | Refused | Merged) -> None:
    line = encode(event)
    assert line.count("\n") == 1
    assert decode(line) == event


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    JOB.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == JOB


def test_a_file_that_is_not_what_was_written_is_refused(tmp_path: Path) -> None:
    file, content = tmp_path / "model.safetensors", b"weights" * 10_000
    file.write_bytes(content)
    file.chmod(0o600)
    wanted = hashlib.sha256(content).hexdigest()
    assert settle(file, wanted) == len(content)
    assert file.stat().st_mode & 0o777 == 0o644
    with file.open("r+b") as stream:
        stream.seek(33_333)
        stream.write(b"?")
    assert settle(file, None) == len(content)
    with pytest.raises(LeviathanError, match="is not what was written to it"):
        settle(file, wanted)


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk of /m is full"),
        ("torch.OutOfMemoryError: CUDA out of memory.", "The GPU has no memory left"),
        ("ValueError: what", "The merge failed: ValueError: what"),
    ],
)
def test_a_death_is_explained(why: str, told: str) -> None:
    error = explained(why, JOB, Path("/tmp/log"))
    assert told in error.message
    assert error.hint
