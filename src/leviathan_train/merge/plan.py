"""What a merge will do: which adapter, which base, how it was rounded, and where the model goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leviathan_train.config.load import Config
from leviathan_train.errors import UsageError
from leviathan_train.merge import adapters, output
from leviathan_train.merge.adapters import Adapter
from leviathan_train.merge.base import find_base
from leviathan_train.merge.belongs import check_belongs
from leviathan_train.merge.job import Proof
from leviathan_train.run.folder import Run

Precision = Literal["training", "full"]


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
        return output.workplace(self.goal)


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
    output.check_goal(goal, {base, run.path, adapter.path}, replace=replace)
    output.check_space(goal, base, adapter)
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
