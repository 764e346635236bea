"""Which Slurm job this process belongs to, as its environment tells."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SlurmJob:
    """One start of a Slurm job, or of one task of an array.

    Attributes:
        name: as scontrol and scancel take it: `123`, or `120_3` for a task of an array. The
            first number alone may mean every task of the array.
        cluster: its name; numbers of jobs are unique on one cluster only.
        restarts: how many times Slurm has started the job again.
    """

    name: str
    cluster: str = ""
    restarts: int = 0

    @classmethod
    def of(cls, environ: Mapping[str, str] | None = None) -> SlurmJob | None:
        """The job whose environment this is, or this process's; None outside of Slurm."""
        # Looked up at each call: `Dataset.map` of several processes puts a copy in its place.
        environ = os.environ if environ is None else environ
        name = environ.get("SLURM_JOB_ID")
        if not name:
            return None
        array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
        if array and task:
            name = f"{array}_{task}"
        restarts = environ.get("SLURM_RESTART_COUNT", "")
        count = int(restarts) if restarts.isascii() and restarts.isdigit() else 0
        return cls(name, environ.get("SLURM_CLUSTER_NAME", ""), count)

    @property
    def id(self) -> str:
        """What is the same at each start of this job, and of no other."""
        return f"{self.cluster}/{self.name}"
