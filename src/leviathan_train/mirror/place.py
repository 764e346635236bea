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
_PROTOCOLS = frozenset({"s3", "gs", "az", "hf", "sftp", "ssh", "file"})
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


def _is_protocol(scheme: str) -> bool:
    """Whether fsspec, which opens the places, knows a protocol."""
    if scheme in _PROTOCOLS:
        return True
    import fsspec

    return scheme in fsspec.available_protocols()


def _meant(text: str) -> str:
    """What was probably meant by a name with a colon that is no URL, as a hint."""
    scheme, rest = re.split(r":|//", text, maxsplit=1)
    if scheme in _PROTOCOLS:
        return f"Did you mean {scheme}://{rest.lstrip('/')}?"
    return (
        "Name a URL such as s3://bucket/runs or sftp://host/folder, or a command with {path}; a"
        " folder with a colon in its name begins with ./"
    )


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
    scheme, gap, rest = text.partition("://")
    if gap and not rest.strip("/"):
        raise UsageError(f"{named}: {text} names no place.", f"Example:  {named} s3://bucket/runs")
    if gap and not _is_protocol(scheme):
        raise UsageError(
            f"{named}: {scheme}:// is not a known protocol.",
            "Known are s3://, gs://, az://, hf://, sftp:// and file://.",
        )
    if not gap and text.split("//")[0] in _PROTOCOLS:
        raise UsageError(f"{named}: {text} is neither a URL nor a folder.", _meant(text))
    if not gap:
        if ":" in text.split("/")[0]:
            shown = "this" if "@" in text else text  # it may hold a password
            raise UsageError(f"{named}: {shown} is neither a URL nor a folder.", _meant(text))
        text = f"file://{Path(text).expanduser().absolute()}"
    if text.startswith("file://"):
        target = Path(text.removeprefix("file://")).resolve() / run.name
        if target == run.path.resolve() or run.path.resolve() in target.parents:
            raise UsageError(
                f"{named}: {target} is the run itself, not another place.",
                "Name a folder on another disk.",
            )
    return Place(text.rstrip("/"), run.name)
