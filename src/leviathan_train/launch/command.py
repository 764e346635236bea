"""The command and the environment of a training: pure functions of config and checkpoint."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leviathan_train.config.load import Config
from leviathan_train.errors import UsageError
from leviathan_train.launch.machines import ALONE, Layout
from leviathan_train.launch.resume import Offer
from leviathan_train.run.folder import Run
from leviathan_train.run.session import Session
from leviathan_train.system.processes import MACHINE_ENV, SESSION_ENV


@dataclass(frozen=True)
class Typed:
    """A command as the user typed it, so that the commands shown to them keep its options.

    Attributes:
        words: `leviathan train CONFIG` and its options, without those that count only once,
            such as `--resume 40`.
        accelerate: what was typed after `--`.
    """

    words: tuple[str, ...]
    accelerate: tuple[str, ...] = ()

    def line(self, *options: str) -> tuple[str, ...]:
        """The command to type next in words, with further options."""
        rest = ("--", *self.accelerate) if self.accelerate else ()
        return (*self.words, *options, *rest)

    def check(self) -> str:
        """`leviathan check` for the same config and its `--set` options."""
        words = [*self.words[2:3], *(word for value in self._sets() for word in ("--set", value))]
        return shlex.join(("leviathan", "check", *words))

    def without_sets(self, keys: Collection[str]) -> Typed:
        """The same command, with these keys as the config's file has them."""
        kept: list[str] = []
        words = iter(self.words)
        for word in words:
            pair = [word, next(words, "")] if word == "--set" else [word]
            if re.split(r"[.=]", pair[-1])[0].strip() not in keys or len(pair) == 1:
                kept += pair
        return replace(self, words=tuple(kept))

    def _sets(self) -> list[str]:
        """The values of `--set`."""
        pairs = zip(self.words, self.words[1:], strict=False)
        return [value for option, value in pairs if option == "--set"]

    def again(self, *options: str) -> str:
        """The command to type next, with further options, quoted for a shell."""
        return shlex.join(self.line(*options))


@dataclass(frozen=True)
class Plan:
    """Everything a start needs, decided before anything is changed.

    Attributes:
        typed: what the user typed.
        argv: the whole command of the trainer.
        rebuild_rows: whether Axolotl is to tokenise the data again.
        until, until_monotonic: when to be off the GPU; see `run.records.Launch`.
        grace: seconds after which a trainer that does not obey a pause is killed.
        layout: the processes and machines that train.
    """

    config: Config
    run: Run
    typed: Typed
    argv: tuple[str, ...]
    offer: Offer
    resume_from: Path | None
    rebuild_rows: bool
    grace: float
    until: float | None = None
    until_monotonic: float | None = None
    layout: Layout = ALONE


def check_packages() -> None:
    """Check that the trainer's packages are installed, without importing them.

    Raises:
        UsageError: naming the package that is missing.
    """
    for name in ("accelerate", "axolotl"):
        if importlib.util.find_spec(name) is None:
            raise UsageError(
                f"The package {name} is not installed in {sys.prefix}.",
                "Install it with:  pip install leviathan-train    or run ./scripts/quickstart.sh",
            )


def check_launcher(accelerate: Sequence[str]) -> None:
    """Check the arguments for `accelerate launch` by its own parser, which takes a second or two.

    Raises:
        UsageError: the launcher would refuse them.
    """
    code = (
        "import sys; from accelerate.commands.launch import launch_command_parser as parser;"
        " parser().parse_args([*sys.argv[1:], '-m', 'axolotl.cli.train'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *accelerate], capture_output=True, text=True, check=False
    )
    if done.returncode and (refused := re.search(r"^.+?: error: (.+)", done.stderr, re.MULTILINE)):
        raise launcher_refuses(refused[1])


def launcher_refuses(why: str) -> UsageError:
    """The refusal of arguments that accelerate does not take."""
    return UsageError(
        f"accelerate refuses what stands after --: {why}", "See:  accelerate launch --help"
    )


def build_argv(
    config: Config, resume_from: Path | None, accelerate: Sequence[str] = (), *, has_gpu: bool
) -> tuple[str, ...]:
    """The whole command of a training.

    `--strict=False` stands first: with `strict: true` in the YAML, Axolotl drops every
    override of a key that the YAML lacks (axolotl 0.19, cli/config.py, `load_cfg`).

    Args:
        accelerate: arguments for `accelerate launch`; without any, a machine without a GPU
            gets the ones that make it train on its CPU.
    """
    if not accelerate and not has_gpu:
        accelerate = ("--cpu", "--num_processes", "1")
    overrides = {key: value for key, value in config.overrides.items() if key != "plugins"}
    overrides.pop("resume_from_checkpoint", None)
    resume = [f"--resume_from_checkpoint={_literal(str(resume_from))}"] if resume_from else []
    if not resume and config.values.get("resume_from_checkpoint"):
        resume = ["--resume_from_checkpoint=None"]
    return (
        sys.executable,
        "-m",
        "accelerate.commands.launch",  # 1.5 s; the `accelerate` script imports every command, 6 s
        *accelerate,
        "-m",
        "axolotl.cli.train",
        f"./{config.path}" if str(config.path).startswith("-") else str(config.path),
        "--strict=False",
        f"--plugins={json.dumps(config.plugins)}",
        *resume,
        *(f"--{key.replace('.', '__')}={_literal(value)}" for key, value in overrides.items()),
    )


def _literal(value: Any) -> str:
    """`value` so that Fire reads it back as it is."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_./~][\w./~-]*", value):
        return value if value not in {"None", "True", "False"} else repr(value)
    return repr(value)


def build_env(session: Session, base: Mapping[str, str], machine: int) -> dict[str, str]:
    """The trainer's environment on one of the machines that train together.

    torch's elastic agent would answer SIGTERM by a traceback and by killing its ranks after
    30 s; left to the ranks, it is a pause (`PET_` is torchrun's prefix for its options).
    Axolotl's telemetry is off unless the user sets `AXOLOTL_DO_NOT_TRACK=0`: without a
    network it keeps a finished trainer alive for minutes.
    """
    return dict(base) | {
        SESSION_ENV: str(session.path),
        MACHINE_ENV: str(machine),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "AXOLOTL_DO_NOT_TRACK": base.get("AXOLOTL_DO_NOT_TRACK", "1"),
        "PET_SIGNALS_TO_HANDLE": "SIGQUIT",
        "TQDM_DISABLE": base.get("TQDM_DISABLE", "1"),
    }


def has_gpu() -> bool:
    """Whether this machine has a GPU that torch may use, told without importing torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return False
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))
