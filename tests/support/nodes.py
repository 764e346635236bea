"""Several machines for tests: each has its own network, host name and processes, and all share
the file system. They are namespaces of this one, where that is allowed, and addresses of its
loopback device elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.driver import LEVIATHAN, PATIENCE, Started

_DEVICE = "eth0"


@dataclass
class Node:
    """One machine.

    Attributes:
        number: its `--machine_rank`.
        address: by which the others reach it.
        holder: the first process of its namespaces; None where it has none.
    """

    number: int
    address: str
    device: str
    holder: int | None = None

    def command(self, *words: str) -> list[str]:
        """What runs `words` on this machine."""
        if self.holder is None:
            return list(words)
        return ["nsenter", "-t", str(self.holder), "-m", "-u", "-n", "-p", "--", *words]

    def run(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Run a command there to its end; its output."""
        done = subprocess.run(
            self.command(*words),
            cwd=cwd,
            env=dict(env or os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def unplug(self) -> None:
        """Pull its network cable."""
        self.run("ip", "link", "set", _DEVICE, "down")

    def power_off(self) -> None:
        """Kill all that runs there at once."""
        assert self.holder
        os.kill(self.holder, signal.SIGKILL)


class StartedThere(Started):
    """A `leviathan train` on a node: signals reach it, and not what carries it there."""

    @property
    def command_pid(self) -> int:
        """The command line's own pid, as it is seen from here."""
        pid = self.process.pid
        while Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"nsenter"):
            children = _children(pid)
            pid = children[0] if children else pid
            time.sleep(0.01)
        return pid

    def signal(self, number: int = signal.SIGINT) -> None:
        os.kill(self.command_pid, number)


@dataclass
class Nodes:
    """Machines that train together."""

    nodes: tuple[Node, ...]
    port: int = 29700

    def accelerate(self, node: Node, processes: int) -> list[str]:
        """The arguments of `accelerate launch` on a node."""
        self_describing = {
            "num_machines": len(self.nodes),
            "machine_rank": node.number,
            "main_process_ip": self.nodes[0].address,
            "main_process_port": self.port,
            "num_processes": processes,
        }
        words = [
            word for key, value in self_describing.items() for word in (f"--{key}", str(value))
        ]
        return ["--multi_gpu", *words]

    def start(
        self,
        number: int,
        config: Path,
        *args: str,
        env: Mapping[str, str],
        processes: int = 2,
        run: Path | None = None,
    ) -> StartedThere:
        """Start `leviathan train CONFIG` on a node, in the config's folder."""
        node, run = self.nodes[number], run or config.parent / "run"
        before = set((run / ".leviathan/sessions").glob("*"))
        words = ["train", str(config), *args, "--", *self.accelerate(node, processes)]
        process = subprocess.Popen(
            node.command(LEVIATHAN, *words),
            cwd=config.parent,
            env=dict(env) | {"GLOO_SOCKET_IFNAME": node.device},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return StartedThere(process, run, before)


@contextlib.contextmanager
def two_nodes() -> Iterator[Nodes]:
    """Two machines with a cable between them; all that runs there ends with them."""
    if not _may_unshare():
        yield Nodes((Node(0, "127.0.0.1", "lo"), Node(1, "127.0.0.2", "lo")))
        return
    holders = [_hold(f"node{number}") for number in range(2)]
    try:
        first, second = nodes = tuple(
            Node(number, f"192.0.2.{number + 1}", _DEVICE, pid)
            for number, (_, pid) in enumerate(holders)
        )
        cable = ["ip", "link", "add", _DEVICE, "netns", str(first.holder), "type", "veth"]
        peer = ["peer", "name", _DEVICE, "netns", str(second.holder)]
        subprocess.run([*cable, *peer], check=True)
        for node in nodes:
            node.run("ip", "link", "set", "lo", "up")
            node.run("ip", "addr", "add", f"{node.address}/24", "dev", _DEVICE)
            node.run("ip", "link", "set", _DEVICE, "up")
        yield Nodes(nodes)
    finally:
        for process, pid in holders:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            process.wait()


def _may_unshare() -> bool:
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    probe = ["unshare", "-m", "-u", "-n", "-p", "--fork", "--mount-proc", "true"]
    return subprocess.run(probe, capture_output=True).returncode == 0


def _hold(name: str) -> tuple[subprocess.Popen[bytes], int]:
    """Make the namespaces of a machine; what holds them, and the first process in them."""
    command = ["unshare", "-m", "-u", "-n", "-p", "--fork", "--mount-proc"]
    script = f"hostname {name} && exec sleep 100000"
    process = subprocess.Popen(
        [*command, "sh", "-c", script], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for pid in _children(process.pid):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"):
                return process, pid
        time.sleep(0.02)
    raise AssertionError("no namespaces came up")


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
