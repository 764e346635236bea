"""A Slurm of the test's own: a controller and two nodes on the loopback, below one folder.

Each node has its own host name and its own processes, so that for leviathan they are two
machines with a shared file system, and a node can be cut off as by its mains switch.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("n1", "n2")
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "unshare", "setpriv")
_PATIENCE = 300.0


def missing() -> str:
    """Why there can be no Slurm on this machine; empty if there can."""
    if os.geteuid() != 0:
        return "a Slurm of the test's own needs root"
    if gone := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"not installed: {', '.join(gone)} (Debian: slurmctld slurmd slurm-client munge)"
    apart = subprocess.run([*_apart(), "true"], capture_output=True)
    return "" if apart.returncode == 0 else "processes cannot be set apart here (unshare)"


def _apart() -> tuple[str, ...]:
    """The command that sets a node apart; it ends with the one that started it."""
    return (
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--fork",
        "--kill-child",
        "--pid",
        "--mount-proc",
        "--uts",
    )


@dataclass
class Slurm:
    """A running Slurm, and the commands that a user would type.

    Partition `low` gives way to `high` after a minute of grace, `brief` at once.
    """

    folder: Path
    env: Mapping[str, str]
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "slurm.conf"

    def start(self) -> None:
        """Start all of it, and wait until both nodes are idle."""
        for name in ("munge", "state", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        ports = _free_ports(1 + len(NODES))
        self.config.write_text(_config(self.folder, ports))
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        munge = self.folder / "munge"
        key = munge / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {"pid-file": "pid", "log-file": "log", "seed-file": "seed", "socket": "socket"}
        paths = (f"--{option}={munge / name}" for option, name in files.items())
        self._run("munged", "--force", "--foreground", f"--key-file={key}", *paths)
        _wait(lambda: (munge / "socket").exists(), "munged's socket")
        self._run("slurmctld", "-D", "-f", str(self.config))
        for node in NODES:
            self.switch_on(node)
        _wait(lambda: self.states() == dict.fromkeys(NODES, "idle"), "idle nodes", self.states)

    def stop(self) -> None:
        """End all of it, jobs included; nothing of it is left."""
        for name in reversed(list(self._daemons)):
            process = self._daemons.pop(name)
            process.kill()
            process.wait()

    def switch_on(self, node: str) -> None:
        """Start a node: a host of this name, and its slurmd."""
        # The shell is the first process of the node and reaps what the others leave.
        script = 'hostname "$0"; slurmd -D -N "$0" -f "$1" & wait'
        self._run(node, *_apart(), "sh", "-c", script, node, str(self.config), program="unshare")

    def switch_off(self, node: str) -> None:
        """Kill every process of a node at once."""
        process = self._daemons.pop(node)
        process.kill()
        process.wait()

    def on(self, node: str, *words: str) -> None:
        """Run a command on a node, where its processes have the numbers that it knows."""
        shell = self._first_of(node)
        where = ("nsenter", f"--target={shell}", "--pid", "--mount", "--uts")
        subprocess.run([*where, *words], check=True)

    def _first_of(self, node: str) -> int:
        """The first process of a node, as it is numbered here."""
        pid = self._daemons[node].pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def type(self, *words: str) -> str:
        """What a command of Slurm's prints."""
        done = subprocess.run(words, env=self._environ(), capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, script: Path, *options: str, cwd: Path) -> str:
        """Submit a batch script; its output is appended to `cwd`/out.

        Returns:
            The job's number.
        """
        output = ("--output", str(cwd / "out"), "--open-mode=append", "--chdir", str(cwd))
        return self.type("sbatch", "--parsable", *output, *options, str(script))

    def states(self) -> dict[str, str]:
        """The state of each node."""
        told = self.type("sinfo", "--noheader", "--Node", "--partition=low", "-o", "%N %t")
        return dict(line.split() for line in told.splitlines())

    def job(self, number: str) -> dict[str, str]:
        """What Slurm says of a job."""
        told = self.type("scontrol", "--oneliner", "show", "job", number)
        return dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", told))

    def wait_for(self, number: str, *states: str, seconds: float = _PATIENCE) -> dict[str, str]:
        """Wait until a job is in one of `states`."""
        _wait(
            lambda: self.job(number)["JobState"] in states,
            f"job {number} {states}",
            lambda: self.job(number),
            seconds,
        )
        return self.job(number)

    def finished(self, number: str, seconds: float = _PATIENCE) -> dict[str, str]:
        """Wait until a job has ended for good."""
        return self.wait_for(number, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", seconds=seconds)

    def _run(self, name: str, *words: str, program: str = "") -> None:
        own = () if program else ("setpriv", "--pdeathsig", "KILL", name)
        argv = (*own, *words)
        with (self.folder / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                argv, env=self._environ(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def _environ(self) -> dict[str, str]:
        return dict(self.env) | {"SLURM_CONF": str(self.config)}


@contextlib.contextmanager
def running(folder: Path, env: Mapping[str, str]) -> Iterator[Slurm]:
    """A Slurm in an empty folder, taken down at the end."""
    slurm = Slurm(folder, env)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


def _wait(
    condition: Callable[[], bool],
    what: str,
    now: Callable[[], object] = lambda: "",
    seconds: float = _PATIENCE,
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: never came. {now()}"
        time.sleep(0.2)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _config(folder: Path, ports: list[int]) -> str:
    host = socket.gethostname()
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1"
        " RealMemory=4000 Gres=gpu:1"
        for node, port in zip(NODES, ports[1:], strict=True)
    )
    # A job that was requeued waits as long as its credential lives (cred_expire): 120 s, if
    # not told otherwise. A dead node is noticed after SlurmdTimeout.
    return f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=30
SlurmdTimeout=5
GresTypes=gpu
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
{nodes}
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=brief Nodes=n1,n2 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
"""
