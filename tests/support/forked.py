"""Trainings on the real Axolotl in seconds: a server imports it once and forks for each.

For what does not concern the launch or signals. The plugin opens its own session, as in a
plain `axolotl train`, so nothing is compared or refused before the start.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

LIMIT = 600
"""Seconds after which a training is ended by its alarm."""

IMPORTS = (
    "axolotl.cli.train",
    "axolotl.cli.checks",
    "axolotl.cli.config",
    "axolotl.core.builders",
    "axolotl.train",
    "axolotl.utils.config",
    "axolotl.utils.data",
    "axolotl.utils.trainer",
    "axolotl.utils.quantization",
    "axolotl.monkeypatch.torchao_optim",
    "leviathan_train.plugin",
    "peft.tuners.lora.bnb",
    "transformers.models.gemma4.modeling_gemma4",
    "transformers.models.llama.modeling_llama",
)
"""What a training imports, early or late."""


@dataclass(frozen=True)
class Outcome:
    """How a forked training ended.

    Attributes:
        code: exit status; negative for a signal.
        error: last line of the exception that ended it; empty if none did.
        run: its `output_dir`.
        output: all that it printed.
    """

    code: int
    error: str
    run: Path
    output: str

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint of the run."""
        found = [path for path in self.run.glob("checkpoint-*") if path.name[11:].isdigit()]
        return max(found, key=lambda path: int(path.name[11:]))

    @property
    def log(self) -> list[dict[str, Any]]:
        """The log history of the newest checkpoint."""
        state = json.loads((self.checkpoint / "trainer_state.json").read_text())
        history: list[dict[str, Any]] = state["log_history"]
        return history

    def logged(self, key: str, after: int = 0) -> dict[int, float]:
        """Values of `key` by step, of the steps later than `after`."""
        return {e["step"]: e[key] for e in self.log if key in e and e["step"] > after}

    def records(self, name: str) -> list[Any]:
        """A file of each session of the run, oldest first."""
        folders = sorted((self.run / ".leviathan/sessions").glob("*"))
        return [json.loads((f / name).read_text()) for f in folders if (f / name).is_file()]

    def records_of(self, name: str) -> list[dict[str, Any]]:
        """The lines of a JSON lines file of the newest session."""
        newest = max((self.run / ".leviathan/sessions").glob("*"))
        return [json.loads(line) for line in (newest / name).read_text().splitlines()]


class Forge:
    """The server's client. Use it in a `with`."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Forge:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        """The server's process; a training is its only child."""
        return self._process.pid

    def train(self, config: Path, *, patch: str = "", **env: str) -> Outcome:
        """Train `config` to its end.

        Args:
            patch: `FILE.py:FUNCTION`, called in the child before the training begins.
            env: variables for the child.
        """
        assert self._process.stdin and self._process.stdout
        output = config.with_suffix(".log")
        order = {"config": str(config), "patch": patch, "env": env, "output": str(output)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        text = output.read_text(errors="replace")
        run = Path(yaml.safe_load(config.read_text())["output_dir"])
        return Outcome(code, _last_error(text) if code else "", run, text)

    def must_train(self, config: Path, **more: str) -> Outcome:
        """As `train`; the test is at fault if the training fails."""
        done = self.train(config, **more)
        assert done.code == 0, f"{done.code} {done.error}\n{done.output[-3000:]}"
        return done


def _last_error(text: str) -> str:
    lines = re.findall(r"^(?:[\w.]*(?:Error|Exception|Interrupt)\b.*|\w[\w.]*: .*)$", text, re.M)
    return lines[-1] if lines else ""


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the imports print is no answer
    for name in IMPORTS:
        importlib.import_module(name)

    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _train(order)
        _, status = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


def _train(order: Mapping[str, Any]) -> None:
    """The child: never returns."""
    code = 1
    try:
        signal.alarm(LIMIT)
        output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(order["env"])
        os.chdir(Path(order["config"]).parent)
        if order["patch"]:
            file, _, name = order["patch"].rpartition(":")
            spec = importlib.util.spec_from_file_location("patches", file)
            assert spec and spec.loader
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            getattr(module, name)()
        from axolotl.cli.train import do_cli

        do_cli(config=order["config"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # for what a patch imports
    _serve()
