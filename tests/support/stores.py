"""Real stores to copy to: an S3 server and an ssh server of the test's own, on loopback."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

BUCKET = "runs"
_PATIENCE = 60.0


@dataclass
class Server:
    """An S3 server with one bucket.

    Attributes:
        env: what a client needs in its environment.
    """

    port: int
    env: Mapping[str, str]
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/leviathan"

    def stop(self) -> None:
        """End it; what it held is gone."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def s3(folder: Path, *, port: int = 0) -> Iterator[Server]:
    """An S3 server for as long as the block lasts."""
    port = port or free_port()
    env = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "AKIATESTS",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-found-anywhere",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | env,
        )
    server = Server(port, env, process)
    try:
        _wait_for(port, process)
        make_bucket(server)
        yield server
    finally:
        server.stop()


def make_bucket(server: Server) -> None:
    """Create the bucket, as its owner would before."""
    script = f"import s3fs; s3fs.S3FileSystem().mkdir({BUCKET!r})"
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | server.env)


@contextlib.contextmanager
def sftp(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An ssh server that serves `folder`; the URL to copy to. Skips where there is none."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if sshd is None:
        pytest.skip("sshd is not installed")
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    for name in (folder / "host_key", home / ".ssh/id_rsa"):
        keygen = ["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(name)]
        subprocess.run(keygen, check=True)
    keys = folder / "authorized_keys"
    keys.write_text((home / ".ssh/id_rsa.pub").read_text())
    port = free_port()
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {keys}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "PermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    )
    os.makedirs("/run/sshd", exist_ok=True)  # where it leaves its privileges behind
    process = subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
    monkeypatch.setenv("HOME", str(home))
    try:
        _wait_for(port, process)
        yield f"sftp://{getpass.getuser()}@127.0.0.1:{port}{folder}/there"
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)
