"""One life of the training process in a run: its folder, its records, its requests."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from leviathan_train.run import records
from leviathan_train.run.records import (
    Begin,
    Cause,
    End,
    Launch,
    Request,
    RequestKind,
    Status,
    Verdict,
)
from leviathan_train.run.requests import RequestQueue
from leviathan_train.system import processes
from leviathan_train.system.files import read_json, write_json, write_once
from leviathan_train.system.processes import Process


@dataclass(frozen=True)
class Session:
    """The folder `<run>/.leviathan/sessions/<id>`, and every path in it."""

    path: Path

    @property
    def id(self) -> str:
        """Its start as `YYYYmmdd_HHMMSS`, made unique; sessions sort by it."""
        return self.path.name

    @property
    def launch_file(self) -> Path:
        return self.path / "launch.json"

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    @property
    def end_file(self) -> Path:
        return self.path / "end.json"

    @property
    def begin_file(self) -> Path:
        return self.path / "begin.json"

    @property
    def seam_file(self) -> Path:
        return self.path / "seam.json"

    @property
    def metrics_file(self) -> Path:
        """Every logged number in full precision; see `run.metrics`."""
        return self.path / "metrics.jsonl"

    @property
    def screen_file(self) -> Path:
        """The lines that the trainer means for the screen."""
        return self.path / "screen"

    @property
    def log(self) -> Path:
        """The whole output of the training."""
        return self.path.parents[2] / "logs" / f"training_{self.id}.log"

    @property
    def launch(self) -> Launch:
        """The record of the start; defaults if it was lost."""
        return records.read(Launch, self.launch_file) or Launch(id=self.id)

    @property
    def status(self) -> Status | None:
        return records.read(Status, self.status_file)

    @property
    def begin(self) -> Begin | None:
        """When and where training began; None if it has not."""
        return records.read(Begin, self.begin_file)

    @property
    def verdict(self) -> Verdict | None:
        """How the log looks across the resume that the session began with."""
        return records.read(Verdict, self.seam_file)

    @property
    def end(self) -> End | None:
        return records.read(End, self.end_file)

    def beat_file(self, machine: int) -> Path:
        """Touched again and again while the trainer lives on one of several machines."""
        return self.path / f"beat-{machine}"

    @property
    def requests(self) -> RequestQueue:
        return RequestQueue(self.path / "requests")

    @property
    def asked(self) -> Request | None:
        """The request that ends the session, if there is one: a kill, or the first pause."""
        if asked := self.requests.strongest():
            return asked
        old = records.read(Request, self.path / "request.json")  # the only slot of version 0.1.0
        return old if old and old.kind is not RequestKind.SAVE else None

    def ask(
        self, kind: RequestKind, by: str, grace: float = 0.0, cause: Cause = Cause.PERSON
    ) -> str:
        """Leave a request for the trainer.

        Returns:
            The request's name, to ask `requests.answer` for.

        Raises:
            OSError: it could not be written.
        """
        request = Request(kind, by, time.time(), grace, cause)
        if self.launch.protocol < records.PROTOCOL:  # a trainer that was started before an upgrade
            write_json(self.path / "request.json", asdict(request))
        return self.requests.put(request)

    def close(self, end: End) -> End:
        """Record how the session ended; of several at once, the file system takes the first.

        Returns:
            The end that stands.

        Raises:
            OSError: it could not be written.
        """
        if write_once(self.end_file, asdict(end)):
            return end
        return self.end or end

    def add_process(self, process: Process, role: str) -> None:
        """Record a process that belongs to the session (`cli`, `launcher`, `rank0`, ...)."""
        write_json(self.path / f"process-{role}.json", asdict(process))

    def processes(self) -> Mapping[str, Process]:
        """The recorded processes by role."""
        found = {}
        for path in sorted(self.path.glob("process-*.json")):
            if process := Process.from_json(read_json(path)):
                found[path.stem.removeprefix("process-")] = process
        return found

    @property
    def host(self) -> str:
        """Where it runs or ran."""
        return self.launch.host

    def is_here(self) -> bool:
        """Whether it was started on this host."""
        return self.host in {"", processes.hostname()}
