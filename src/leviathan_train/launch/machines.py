"""How many processes and machines a training has, as `accelerate launch` would reckon it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leviathan_train.system.gpu import Nvml, visible

_SEVERAL = frozenset(
    {"multi_gpu", "use_fsdp", "use_deepspeed", "use_megatron_lm", "tpu", "mpirun_hostfile"}
    | {"distributed_type"}
)
"""What makes accelerate start several processes where there is no GPU; otherwise it starts one,
whatever their number (commands/launch.py, `launch_command`)."""


@dataclass(frozen=True)
class Layout:
    """What the arguments of `accelerate launch` ask for.

    Attributes:
        processes: of all machines together; None where nobody tells.
        machines: how many machines train together.
        machine: which of them this one is; the first one, 0, decides for all.
        address: host and port at which the first one is met by the others.
        asked: how many processes were asked for, where accelerate will start fewer.
    """

    processes: int | None = None
    machines: int = 1
    machine: int = 0
    address: tuple[str, int] | None = None
    asked: int | None = None

    @property
    def is_first(self) -> bool:
        """Whether this machine decides what is trained: it alone opens sessions."""
        return self.machines < 2 or self.machine == 0


def layout_of(
    accelerate: Sequence[str], *, has_gpu: bool, gpus: Callable[[], int] | None = None
) -> Layout:
    """The layout that arguments of `accelerate launch` ask for.

    What they leave open is taken from accelerate's own file of settings: the one they name, or
    the one that `accelerate config` wrote.

    Args:
        gpus: counts the GPUs that torch may use; asked only where the number of processes is
            left to it.
    """
    if not accelerate and not has_gpu:
        return Layout(processes=1)
    given = dict(_options(accelerate))
    settings = {} if "cpu" in given and "config_file" not in given else _settings(given)
    values = {**settings, **given}
    machines = _number(values.get("num_machines")) or 1
    processes = _number(values.get("num_processes"))
    if processes is None and has_gpu and machines == 1 and "cpu" not in given:
        processes = (gpus() if gpus else len(visible(Nvml()()))) or None
    host, port = values.get("main_process_ip"), _number(values.get("main_process_port"))
    asked = None
    if not has_gpu and machines == 1 and (processes or 1) > 1 and not _SEVERAL & values.keys():
        asked, processes = processes, 1
    return Layout(
        processes,
        machines,
        _number(values.get("machine_rank")) or 0,
        (str(host), port) if host and port else None,
        asked,
    )


ALONE = Layout()
"""One machine; nobody tells how many processes."""


def with_machine(accelerate: Sequence[str], machine: int) -> tuple[str, ...]:
    """The same arguments for another machine."""
    kept: list[str] = []
    parts = iter(accelerate)
    for part in parts:
        if re.fullmatch(r"--machine[_-]rank", part):
            next(parts, None)
        elif not re.match(r"--machine[_-]rank=", part):
            kept.append(part)
    return (*kept, "--machine_rank", str(machine))


def _options(accelerate: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each option, underscores for dashes; of a flag, the empty string."""
    for index, part in enumerate(accelerate):
        if match := re.fullmatch(r"--([\w-]+)(?:=(.*))?", part):
            following = accelerate[index + 1] if index + 1 < len(accelerate) else ""
            value = match[2] if match[2] is not None else following
            yield match[1].replace("-", "_"), "" if value.startswith("--") else value


def _settings(given: Mapping[str, str]) -> Mapping[str, Any]:
    """accelerate's file of settings; empty where there is none, or none that can be read.

    Its place is that of accelerate 1.13 to 1.15 (commands/config/config_args.py).
    """
    import yaml

    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", os.path.join(cache, "huggingface"))
    default = os.path.join(os.path.expanduser(home), "accelerate", "default_config.yaml")
    try:
        text = Path(given.get("config_file") or default).read_text(encoding="utf-8")
        value = yaml.safe_load(text)  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else None
