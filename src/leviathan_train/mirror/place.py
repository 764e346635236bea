"""Where the copies go: a URL that fsspec opens, or a command of the user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leviathan_train.config.redact import redact
from leviathan_train.errors import UsageError
from leviathan_train.run.folder import Run

URL_ENV = "LEVIATHAN_MIRROR_URL"
"""Environment variable that carries the place to the mirror's process: an argument could be
read by everybody on the machine, and a URL may hold a password."""

_FIELDS = re.compile(r"\{(\w*)\}")
_PROTOCOLS = ("s3", "gs", "az", "hf", "sftp", "ssh", "file")
_TOLD = "s3://, gs://, az://, hf://, sftp:// and file://, and what else fsspec opens"
_KNOWN_FIELDS = frozenset({"path", "run", "name"})


@dataclass(frozen=True)
class Place:
    """A place for the copies of one run.

    Attributes:
        url: a URL such as `s3://bucket/runs`, or a command with `{path}` in it.
        run: the name of the run, a folder below the URL.
    """

    url: str
    run: str

    @property
    def is_command(self) -> bool:
        """Whether a command copies; nothing can be looked up or fetched there."""
        return bool(_FIELDS.search(self.url))

    @property
    def shown(self) -> str:
        """The place as it may be shown and recorded: without credentials."""
        return str(redact(self.url))

    def command(self, path: Path) -> str:
        """The command that copies the checkpoint at `path`."""
        import shlex

        values = {"path": str(path), "run": self.run, "name": path.name}
        return _FIELDS.sub(lambda match: shlex.quote(values[match[1]]), self.url)


def _check_url(named: str, text: str) -> None:
    """Refuse a URL that leads nowhere, and what looks like one and is none.

    Raises:
        UsageError: telling what was probably meant. It shows no login.
    """
    scheme, is_url, rest = text.partition("://")
    scheme = scheme.rpartition("::")[2]  # fsspec takes chains, such as simplecache::s3://
    if is_url and not rest.strip("/"):
        raise UsageError(f"{named}: {text} names no place.", f"Example:  {named} s3://bucket/runs")
    if is_url and not _is_protocol(scheme):
        raise UsageError(f"{named}: {scheme}:// is not a known protocol.", f"Known are {_TOLD}.")
    first, slashes, rest = text.partition("//")
    if is_url or not (":" in text.split("/")[0] or (slashes and first in _PROTOCOLS)):
        return
    shown = text
    hint = (
        "Name a URL such as s3://bucket/runs or sftp://host/folder, or a command with {path}; a"
        " folder with a colon in its name begins with ./"
    )
    scheme, rest = re.split(r":|//", text, maxsplit=1)
    if "@" in text:
        shown = "this"  # what stands before the @ may be a password
    elif scheme == "file":
        hint = f"Did you mean {re.sub('^/+', '/', rest)}?"
    elif scheme in _PROTOCOLS:
        hint = f"Did you mean {scheme}://{rest.lstrip('/')}?"
    raise UsageError(f"{named}: {shown} is neither a URL nor a folder.", hint)


def _is_protocol(scheme: str) -> bool:
    """Whether fsspec, which opens the places, knows a protocol."""
    if scheme in _PROTOCOLS:
        return True
    import fsspec

    return scheme in fsspec.available_protocols()


def place_of(run: Run, values: Mapping[str, Any], option: str | None = None) -> Place | None:
    """The place that `--mirror` or `leviathan_mirror` names; None if neither does.

    Args:
        values: the config.
        option: the text of `--mirror`; it wins over the config.

    Raises:
        UsageError: it is no place.
    """
    found = option if option is not None else values.get("leviathan_mirror")
    if found is None or found is False:
        return None
    named = "--mirror" if option is not None else "leviathan_mirror"
    if not isinstance(found, str) or not found.strip():
        raise UsageError(f"{named} is empty.", f"Example:  {named} s3://bucket/runs")
    text = found.strip()
    fields = set(_FIELDS.findall(text))
    if fields:
        if "path" not in fields or fields - _KNOWN_FIELDS:
            raise UsageError(
                f"{named}: a command needs {{path}}, and may have {{run}} and {{name}}.",
                "Example:  rclone copy {path} remote:{run}/{name}",
            )
        return Place(text, run.name)
    _check_url(named, text)
    if "://" not in text:
        text = f"file://{Path(text).expanduser().absolute()}"
    if text.startswith("file://"):
        target = Path(text.removeprefix("file://")).resolve() / run.name
        if target == run.path.resolve() or run.path.resolve() in target.parents:
            raise UsageError(
                f"{named}: {target} is the run itself, not another place.",
                "Name a folder on another disk.",
            )
    return Place(text.rstrip("/"), run.name)
