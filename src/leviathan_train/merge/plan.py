"""What a merge will do: which adapter, which base, how it was rounded, and where the model goes.

Here it is decided whether something that is there already may be replaced.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leviathan_train.config.load import Config
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.merge import adapters
from leviathan_train.merge.adapters import Adapter
from leviathan_train.merge.base import find_base, weight_files
from leviathan_train.merge.belongs import check_belongs
from leviathan_train.merge.job import Proof
from leviathan_train.run.folder import Run
from leviathan_train.system.files import folder_bytes
from leviathan_train.system.units import size

Precision = Literal["training", "full"]

MODELS = Path("models")
RESERVE = 64 << 20
"""Bytes that must stay free besides the model: for small files, and for others."""


@dataclass(frozen=True)
class Plan:
    """Everything a merge needs, checked before anything is written.

    Attributes:
        settings: of the training that made the adapter.
        base: the base model's folder, which `base_name` names.
        quantised: whether the base is rounded to 4 bits, as it was in training.
        goal: the folder of the merged model.
    """

    run: Run
    adapter: Adapter
    settings: Mapping[str, Any]
    base: Path
    base_name: str
    precision: Precision
    quantised: bool
    goal: Path
    prove: Proof

    @property
    def workplace(self) -> Path:
        """The hidden folder beside the goal in which the model is written."""
        return workplace(self.goal)


def workplace(goal: Path) -> Path:
    """The hidden folder beside `goal` in which a model is written."""
    return goal.with_name(f".{goal.name}.merging")


def make_plan(
    run: Run,
    choice: str,
    goal: Path,
    *,
    config: Config | None = None,
    precision: Precision = "training",
    prove: Proof = "weights",
    replace: bool = False,
) -> Plan:
    """Decide what is merged with what and check that it can be done; changes nothing.

    Args:
        choice: see `adapters.choose`.
        config: the config that the user named, if any.
        replace: whether a merged model that is there may be replaced.

    Raises:
        UsageError: something is not there, or the parts do not belong together.
        LeviathanError: the adapter is damaged, or the disk too small.
    """
    adapter = adapters.choose(run, choice)
    config = config or adapters.config_of(adapter.run)
    if adapter.seal is None and config is None:
        raise UsageError(
            f"Nothing tells with which settings {adapter.path} was trained.",
            f"Name its config:  leviathan merge CONFIG --checkpoint {adapter.path}",
        )
    settings = adapter.seal.config if adapter.seal else config.values if config else {}
    named = config.values.get("base_model") if config else None
    base_name = str(named or settings.get("base_model"))
    base = find_base(base_name, adapter.run, settings.get("revision_of_model"))
    check_belongs(adapter, base, base_name)
    quantised = precision == "training" and trained_in_nf4(settings)
    check_goal(goal, {base, run.path, adapter.path}, replace=replace)
    _check_space(goal, base, adapter)
    return Plan(run, adapter, settings, base, base_name, precision, quantised, goal, prove)


def trained_in_nf4(settings: Mapping[str, Any]) -> bool:
    """Whether training rounded the base to NF4 by bitsandbytes.

    As in axolotl 0.19 to 0.21, loaders/model.py, _set_quantization_config: `adapter: lora` with
    `load_in_4bit` is accepted there, but trains an unrounded base.

    Raises:
        UsageError: the base was rounded in another way, which cannot be repeated here.
    """
    if settings.get("adapter") != "qlora" or not settings.get("load_in_4bit"):
        return False
    kind = (settings.get("bnb_config_kwargs") or {}).get("bnb_4bit_quant_type", "nf4")
    other = ""
    if kind != "nf4":
        other = f"in {kind} (bnb_config_kwargs)"
    elif settings.get("nf4_backend") not in {None, "bitsandbytes"}:
        other = f"by {settings['nf4_backend']} (nf4_backend)"
    else:
        # Both load the base through code of Axolotl that chooses other layers to round.
        for key in ("staged_nf4", "qlora_sharded_model_loading"):
            if settings.get(key):
                other = f"by Axolotl's own loader ({key})"
    if other:
        raise UsageError(
            f"The base was rounded to 4 bits {other}, which cannot be repeated here.",
            "Merge it with Axolotl:  python -m axolotl.cli.merge_lora CONFIG"
            "    or into the unrounded base:  --precision full",
        )
    return True


def training_dtype(settings: Mapping[str, Any]) -> str:
    """The number format that training loads a base in, or `auto`.

    As in axolotl 0.19 to 0.21, utils/config/__init__.py, normalize_config.
    """
    bf16 = settings.get("bf16", settings.get("bfloat16", "auto"))
    half = settings.get("fp16") or settings.get("float16")
    if bf16 == "auto" and not half:
        return "auto"
    if bf16 and bf16 != "auto":
        return "bfloat16"
    return "float16" if half else "float32"


def is_model(folder: Path) -> bool:
    """Whether `folder` holds a model."""
    return (folder / "config.json").is_file() and bool(weight_files(folder))


def check_goal(goal: Path, precious: set[Path], *, replace: bool) -> None:
    """Check that a model may be written to `goal`: only a merged model is ever replaced.

    Args:
        precious: folders that neither are in the goal nor are the goal.

    Raises:
        UsageError: it may not.
    """
    if goal.is_symlink() or (goal.exists() and not goal.is_dir()):
        raise UsageError(f"{goal} is not a folder.", "Name another:  --output DIR")
    if not goal.exists() or not any(goal.iterdir()):
        return
    here = goal.resolve()
    kept = [path.resolve() for path in (*precious, Path.cwd())]
    if not is_model(here) or any(here == path or here in path.parents for path in kept):
        raise UsageError(
            f"{goal} exists and is not a merged model: it is not replaced.",
            "Name another folder:  --output DIR",
        )
    if not replace:
        raise UsageError(
            f"{goal} exists already.", "Replace it with:  --yes    or name another:  --output DIR"
        )


def _check_space(goal: Path, base: Path, adapter: Adapter) -> None:
    folder = goal.absolute().parent
    while not folder.exists():
        folder = folder.parent
    # What the adapter brings whole may be larger than what it replaces.
    files = [*weight_files(base), adapter.path / adapters.WEIGHTS]
    needed = sum(file.stat().st_size for file in files) + RESERVE
    free = shutil.disk_usage(folder).free + folder_bytes(workplace(goal))
    if free < needed:
        raise LeviathanError(
            f"The model needs {size(needed)}, and {folder} has {size(free)} free.",
            "Free some space there, or write it elsewhere:  --output DIR",
        )
