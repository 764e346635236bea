"""The queue of requests to a session's trainer: one file each, in the session's `requests/`.

    <time>-<token>.json      left by whoever asks; appears in one step, by a rename
    <time>-<token>.taken     the same, renamed by rank 0 when it has heard it
    <time>-<token>.done      the answer to a request to save

Names sort by time. No file is ever written twice, so that nobody overwrites another's request.
Every rank reads both `.json` and `.taken`: rank 0 may be faster.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from leviathan_train.run import records
from leviathan_train.run.records import Answer, Request, RequestKind
from leviathan_train.system.files import read_json, write_json


@dataclass(frozen=True)
class RequestQueue:
    """The requests of one session.

    Attributes:
        folder: `<session>/requests`; made when it is first needed.
    """

    folder: Path

    def put(self, request: Request) -> str:
        """Leave a request; its name, by which `answer` finds what became of it.

        Raises:
            OSError: it could not be written.
        """
        name = f"{time.time_ns():020}-{secrets.token_hex(4)}"
        write_json(self.folder / f"{name}.json", asdict(request))
        return name

    def names(self) -> list[str]:
        """Names of all requests so far, taken or not, oldest first."""
        try:
            found = os.listdir(self.folder)
        except OSError:
            return []
        return sorted({name.partition(".")[0] for name in found if not name.startswith(".")})

    def read(self, name: str) -> Request | None:
        """A request; None if it cannot be read."""
        for suffix in (".json", ".taken", ".json", ".taken"):  # it may be renamed meanwhile
            value = read_json(self.folder / f"{name}{suffix}")
            if isinstance(value, dict) and value.get("kind") in set(RequestKind):
                return records.from_json(Request, value)
        return None

    def take(self, name: str) -> None:
        """Mark a request as heard; done by rank 0."""
        with contextlib.suppress(OSError):  # a full disk: it was heard all the same
            os.rename(self.folder / f"{name}.json", self.folder / f"{name}.taken")

    def resolve(self, name: str, answer: Answer) -> None:
        """Tell whoever asked for a save what became of it."""
        with contextlib.suppress(OSError):  # the status names the checkpoint, too
            write_json(self.folder / f"{name}.done", asdict(answer))

    def answer(self, name: str) -> Answer | None:
        """The answer to a request to save; None while there is none."""
        return records.read(Answer, self.folder / f"{name}.done")

    def strongest(self) -> Request | None:
        """The request that decides: a kill over a pause, of several pauses the first one.

        Requests to save and continue are left out.
        """
        found = [request for name in self.names() if (request := self.read(name))]
        ending = [request for request in found if request.kind is not RequestKind.SAVE]
        return max(ending, key=lambda request: request.kind is RequestKind.KILL, default=None)
