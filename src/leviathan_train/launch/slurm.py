"""A training inside a Slurm job: its time limit, and going back into the queue.

Slurm is asked through its own commands; where they are missing, as in most containers, the
training itself works all the same.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from leviathan_train.errors import UsageError
from leviathan_train.launch.schedule import TimeLimit
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Cause, End, Ending
from leviathan_train.system.slurm import SlurmJob

ON_END_PATIENCE = 10.0
"""Seconds that `--on-end` has before the job is put back, which kills it."""
_MARGIN = ON_END_PATIENCE + 5.0
"""Seconds before the time limit at which a job that is to be put back must have paused."""
_BACK = frozenset({"NODE_FAIL", "PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
_ENDING = frozenset({"CANCELLED", "COMPLETING"})
"""States of a job that was ended: cancelled, unless something else is the reason."""
_NO_LIMIT = 300 * 86400.0
"""An end that is further away is none: Slurm writes a year for UNLIMITED."""
_TRIES = 4
_BETWEEN_TRIES = 2.0

Ask = Callable[[Sequence[str]], str]
"""Runs one of Slurm's commands and returns what it printed; OSError says why it could not."""


def ask_slurm(argv: Sequence[str]) -> str:
    """Run a command of Slurm's that prints times in seconds since the epoch.

    Raises:
        FileNotFoundError: it is not on the PATH.
        OSError: it failed; the message is what it wrote.
    """
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            env=os.environ | {"SLURM_TIME_FORMAT": "%s"},
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(str(error)) from error
    if done.returncode:
        raise OSError(" ".join(done.stderr.split()) or f"exit status {done.returncode}")
    return done.stdout


@dataclass
class Allocation:
    """The Slurm job that this command runs in.

    Attributes:
        requeue: whether a pause that Slurm caused is to put the job back into the queue.
        is_sooner: whether the job ends before the limit that was typed.
    """

    job: SlurmJob
    environ: Mapping[str, str]
    requeue: bool = False
    ask: Ask = ask_slurm
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    is_sooner: bool = False

    @property
    def _name(self) -> str:
        return f"Slurm job {self.job.name}"

    @classmethod
    def here(cls, *, requeue: bool) -> Allocation | None:
        """The job that this process is part of; None outside of Slurm.

        Raises:
            UsageError: `requeue` is asked for outside of Slurm.
        """
        if job := SlurmJob.of():
            return cls(job, os.environ, requeue=requeue)
        if requeue:
            raise UsageError(
                "--requeue works only in a Slurm job, and SLURM_JOB_ID is not set.",
                "Put the command into a batch script, such as leviathan-train's docs/slurm.sbatch,"
                " and submit that with sbatch.",
            )
        return None

    def choice(self, run: Run, choice: str, tell: Callable[[str], None]) -> str:
        """What to resume from, given what `--resume` says: it counts for the first start only.

        Otherwise `--resume never` in a batch script would start over each time Slurm starts
        the job again.
        """
        started = any(
            session.begin and session.launch.slurm_job == self.job.id for session in run.sessions()
        )
        if self.job.restarts and started and choice not in {"ask", "auto"}:
            tell(f"{self._name} was started again: --resume {choice} counted for its first start.")
            return "auto"
        return "auto" if self.requeue and choice == "ask" else choice

    def limit(self, limit: TimeLimit, tell: Callable[[str], None]) -> TimeLimit:
        """The limit that was typed, or the job's where that is sooner, which is told."""
        end = self._end(tell)
        if end is None:
            return limit
        at = end - _MARGIN if self.requeue else end
        if limit.is_over(at, self.monotonic() + at - self.now()):
            return limit
        self.is_sooner = True
        clock = datetime.fromtimestamp(end)
        tell(f"{self._name} ends at {clock:%Y-%m-%d %H:%M:%S}: the run is saved before.")
        return limit.or_at(at)

    def _end(self, tell: Callable[[str], None]) -> float | None:
        """When Slurm ends the job, in seconds since the epoch; None if nothing limits it."""
        told = self.environ.get("SLURM_JOB_END_TIME", "")  # set by newer Slurms
        try:
            told = self._facts().get("EndTime", "")
        except OSError as error:
            if self.requeue and isinstance(error, FileNotFoundError):
                tell(self._by_hand())
            if not told:
                tell(
                    f"⚠️  Slurm's time limit is not known: {_reason(error)}. Limit the run with"
                    " --for, or have Slurm warn it:  #SBATCH --signal=B:USR1@120"
                )
        end = float(told) if told.isascii() and told.isdigit() else None
        return None if end is None or end - self.now() > _NO_LIMIT else end

    def is_interrupted(self, run: Run, end: End) -> bool:
        """Whether Slurm interrupted a training that ended so, and the job is to be put back.

        What a person or `--until` paused stays so.
        """
        if not self.requeue or end.kind in {Ending.FINISHED, Ending.CRASHED}:
            return False
        cause, session = end.cause, run.session()
        if cause is Cause.HUNG and session and session.asked:
            cause = session.asked.cause
        return cause is Cause.SIGNAL or (cause is Cause.DEADLINE and self.is_sooner)

    def put_back(self, run: Run, end: End, tell: Callable[[str], None]) -> None:
        """Put the job back into the queue; Slurm then ends this process within moments.

        A job that somebody has cancelled is left alone, and one whose time limit is too short
        for a single step: it would start for ever. Where Slurm's commands are missing or
        refuse, what to do is told.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # for scontrol as well, which inherits it
        try:
            facts = self._facts()
            is_back = self._is_back(facts)
            if not is_back and (why_not := _why_not(facts, run, end)):
                tell(f"{self._name} does not go back into the queue: {why_not}.")
                return
            tell(f"{self._name} goes back into the queue.")
            if not is_back:
                self._asked("scontrol", "requeue", self.job.name)
        except FileNotFoundError:
            tell(self._by_hand())
        except OSError as error:
            tell(f"⚠️  Slurm refused to put job {self.job.name} back: {_reason(error)}.")
            tell("Submit its batch script again, with  #SBATCH --requeue  in it.")

    def _is_back(self, facts: Mapping[str, str]) -> bool:
        """Whether Slurm has put the job back by itself, as after most preemptions."""
        restarts = facts.get("Restarts", "")
        return facts.get("JobState") in _BACK or (
            restarts.isdigit() and int(restarts) > self.job.restarts
        )

    def _facts(self) -> dict[str, str]:
        """What Slurm says of the job now, by key."""
        told = self._asked("scontrol", "--oneliner", "show", "job", self.job.name)
        return dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", told))

    def _asked(self, *argv: str) -> str:
        """Slurm's answer; a controller that is busy or restarts is asked again."""
        for _ in range(_TRIES - 1):
            try:
                return self.ask(argv)
            except FileNotFoundError:
                raise
            except OSError:
                self.sleep(_BETWEEN_TRIES)
        return self.ask(argv)

    def _by_hand(self) -> str:
        """What the batch script must do where Slurm's commands are not there."""
        name = "$SLURM_JOB_ID"
        if "_" in self.job.name:
            name = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
        return (
            "scontrol is not on the PATH here. To put the job back, the batch script needs this"
            " line after the training's:  code=$?;"
            f' [ $code -eq 75 ] && scontrol requeue "{name}"; exit $code'
        )


def _why_not(facts: Mapping[str, str], run: Run, end: End) -> str:
    """Why a job that was interrupted is not put back; empty if it is.

    Slurm 22.05 shows a job that is being ended as COMPLETING, whoever ends it.
    """
    session = run.session()
    begin = session.begin if session else None
    if facts.get("Reason") == "TimeLimit" or end.cause is Cause.DEADLINE:
        has_step = begin is not None and (end.step or 0) > begin.first_step
        return "" if has_step else "its time limit is too short for a single step"
    is_cancelled = facts.get("JobState") in _ENDING and not facts.get("PreemptTime", "").isdigit()
    return "it was cancelled" if is_cancelled else ""


def _reason(error: OSError) -> str:
    text = str(error).rstrip(".")
    return "scontrol is not on the PATH" if isinstance(error, FileNotFoundError) else text
