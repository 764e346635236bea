"""What goes wrong with a place, by kind: the libraries of the stores have no errors in common."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from enum import StrEnum

from leviathan_train.config.redact import REDACTED, redact
from leviathan_train.errors import FAILED, USAGE, LeviathanError
from leviathan_train.mirror.place import Place


class Trouble(StrEnum):
    """Why a place could not be used."""

    UNREACHABLE = "unreachable"
    DENIED = "denied"
    MISSING = "missing"
    """The bucket, or the host, is not there."""
    FULL = "full"
    PACKAGE = "package"
    """The library for its protocol is not installed, or there is none."""
    DIFFERS = "differs"
    """What was read back is not what was written."""


_HINTS = {
    Trouble.UNREACHABLE: "Check the network and the address.",
    Trouble.DENIED: "Check the credentials in the environment, and what they may do there.",
    Trouble.MISSING: "Check the name; a bucket is not created here.",
    Trouble.FULL: "Free some space there, or set leviathan_mirror_keep.",
    Trouble.PACKAGE: "Known are s3://, gs://, az://, hf://, file://, and with the package paramiko"
    " sftp://.",
    Trouble.DIFFERS: "Copy it again.",
}
_DENIED = re.compile(
    r"credential|denied|forbidden|unauthori[sz]ed|\b40[13]\b|InvalidAccessKey|SignatureDoesNotMatch"
    r"|authentication",
    re.IGNORECASE,
)
_MISSING = re.compile(
    r"(bucket|container|repository)\b.*\b(not exist|not found)|NoSuch(Bucket|Container)",
    re.IGNORECASE,
)
_UNREACHABLE = re.compile(r"connect|timed? ?out|unreachable|name resolution", re.IGNORECASE)
_QUOTED = re.compile(r"\w+://\S+|\"[^\"]*\"|'[^']*'")
"""What an error quotes of a user's own words, such as a bucket's name, says nothing of it."""
_LONG = 300
"""Characters of a library's own words that are told."""
_PACKAGES = re.compile(r"protocol not known|is not installed|^install ", re.IGNORECASE)


class MirrorError(LeviathanError):
    """A place could not be used.

    Attributes:
        trouble: why, for decisions.
    """

    def __init__(self, message: str, trouble: Trouble, hint: str | None = None) -> None:
        super().__init__(message, hint or _HINTS[trouble])
        self.trouble = trouble
        # What a user must change is a usage error; what may pass by itself is a failure.
        wrong = {Trouble.DENIED, Trouble.MISSING, Trouble.PACKAGE}
        self.exit_code = USAGE if trouble in wrong else FAILED


@contextlib.contextmanager
def told(place: Place) -> Iterator[None]:
    """Tell any error of a store's library as a `MirrorError`."""
    try:
        yield
    except LeviathanError:
        raise
    except Exception as error:
        trouble = _kind(error)
        words = " ".join(str(error).split()) or type(error).__name__
        for login in re.findall(r"://([^/\s@]+)@", place.url):  # it may be quoted without its ://
            words = words.replace(login, REDACTED)
        words = _shortened(redact(words))
        end = "" if words.endswith((".", "!", "?")) else "."
        raise MirrorError(f"The mirror {place.shown}: {words}{end}", trouble) from error


def _shortened(words: str) -> str:
    if len(words) <= _LONG:
        return words
    cut = words[:_LONG]
    whole = cut.rpartition(" ")[0]
    return f"{whole if len(whole) > _LONG // 2 else cut} ..."


def _kind(error: Exception) -> Trouble:
    text = _QUOTED.sub("", f"{type(error).__name__} {error}")
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ImportError) or _PACKAGES.search(str(error)):
        return Trouble.PACKAGE
    if number in {errno.ENOSPC, errno.EDQUOT}:
        return Trouble.FULL
    if isinstance(error, ConnectionError) or _UNREACHABLE.search(type(error).__name__):
        return Trouble.UNREACHABLE
    if isinstance(error, PermissionError) or number == errno.EROFS or _DENIED.search(text):
        return Trouble.DENIED
    if isinstance(
        error, FileNotFoundError | NotADirectoryError | FileExistsError
    ) or _MISSING.search(text):
        return Trouble.MISSING
    return Trouble.UNREACHABLE
