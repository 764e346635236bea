"""What the errors of the stores' libraries are taken for."""

from __future__ import annotations

import errno

import pytest

from leviathan_train.errors import UsageError
from leviathan_train.mirror.place import Place
from leviathan_train.mirror.trouble import MirrorError, Trouble, told


class EndpointConnectionError(Exception):
    """As botocore names it."""


class NoCredentialsError(Exception):
    """As botocore names it."""


class HttpError(Exception):
    """As gcsfs names it."""


@pytest.mark.parametrize(
    ("error", "trouble", "status"),
    [
        (
            EndpointConnectionError('Could not connect to the endpoint URL: "http://x/bucket"'),
            Trouble.UNREACHABLE,
            1,
        ),
        (ConnectionResetError("Connection reset by peer"), Trouble.UNREACHABLE, 1),
        (TimeoutError("timed out"), Trouble.UNREACHABLE, 1),
        (OSError(errno.EHOSTUNREACH, "No route to host"), Trouble.UNREACHABLE, 1),
        (OSError("SlowDown: reduce your request rate"), Trouble.UNREACHABLE, 1),
        (NoCredentialsError("Unable to locate credentials"), Trouble.DENIED, 2),
        (PermissionError("Access Denied"), Trouble.DENIED, 2),
        (OSError("An error occurred (InvalidAccessKeyId)"), Trouble.DENIED, 2),
        (HttpError("Invalid bucket name: 'x', 401 Unauthorized"), Trouble.DENIED, 2),
        (OSError(errno.EROFS, "Read-only file system"), Trouble.DENIED, 2),
        (FileNotFoundError("The specified bucket does not exist"), Trouble.MISSING, 2),
        (HttpError("The specified bucket does not exist."), Trouble.MISSING, 2),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), Trouble.MISSING, 2),
        (OSError(errno.ENOSPC, "No space left on device"), Trouble.FULL, 1),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), Trouble.FULL, 1),
        (ImportError("Install s3fs to access S3"), Trouble.PACKAGE, 2),
        (ValueError("Protocol not known: s4"), Trouble.PACKAGE, 2),
    ],
)
def test_an_error_is_told_by_what_a_user_can_do_about_it(
    error: Exception, trouble: Trouble, status: int
) -> None:
    with pytest.raises(MirrorError) as raised, told(Place("s3://me:hunter2@bucket/x", "run")):
        raise error
    assert (raised.value.trouble, raised.value.exit_code) == (trouble, status)
    assert "hunter2" not in raised.value.message and raised.value.hint


def test_an_error_that_quotes_the_address_tells_no_password() -> None:
    with pytest.raises(MirrorError) as raised, told(Place("s3://me:hunter2@bucket/x", "run")):
        raise ValueError('Invalid bucket name "me:hunter2@bucket" in s3://me:hunter2@bucket/x')
    assert "hunter2" not in raised.value.message and "Invalid bucket" in raised.value.message


@pytest.mark.parametrize(
    ("words", "end"),
    [("word " * 100, "word ..."), ("x" * 400, "x" * 300 + " ..."), ("ab " + "x" * 400, "x ...")],
)
def test_a_long_error_is_cut_at_a_word_if_it_has_any(words: str, end: str) -> None:
    with pytest.raises(MirrorError) as raised, told(Place("s3://bucket/x", "run")):
        raise ValueError(words)
    assert raised.value.message.endswith(end)
    assert 200 < len(raised.value.message) < 400


def test_what_is_told_already_stays_as_it_is() -> None:
    with pytest.raises(UsageError), told(Place("s3://bucket", "run")):
        raise UsageError("no")
