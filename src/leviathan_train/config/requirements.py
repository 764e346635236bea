"""What a config needs of a machine: a GPU, memory, disk. Told without importing torch."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leviathan_train.config.base_model import model_folder, shape_of
from leviathan_train.config.load import Config, number
from leviathan_train.errors import UsageError

DEMO = "configs/demo_cpu.yaml"

_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")
_TARGETS: Mapping[str, tuple[str, ...]] = {
    "lora_mlp_kernel": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    "lora_qkv_kernel": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "lora_o_kernel": ("self_attn.o_proj",),
}
_LEGACY_ATTENTION = {
    "flash_attention": "flash_attention_2",
    "flex_attention": "flex_attention",
    "sage_attention": "sage",
    "xformers_attention": "xformers",
}
_GPU_ATTENTION = re.compile(
    r"flash_attention_[234]|flex_attention|sage|xformers|fp8|kernels-community/.*"
)
ATTENTION_PACKAGES = {
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "sage": "sageattention",
    "xformers": "xformers",
}


def gpu_needs(config: Config) -> list[str]:
    """The settings with which Axolotl fails on a machine without a GPU, as `key: value`.

    Each was tried on axolotl 0.19 with torch for CPU. What works there is not named:
    `bf16: auto`, `fp16`, 4-bit and 8-bit bases, the 8-bit and paged optimizers (bitsandbytes
    0.50), `sample_packing`, the attention and output kernels on a base that is not quantised.
    """
    values = config.values
    needs = [
        f"{key}: true" for key in ("bf16", "bfloat16", "tf32", "fp8") if is_on(values.get(key))
    ]
    needs += _kernels(values)
    implementation = attention(config)
    if implementation and _GPU_ATTENTION.fullmatch(implementation):
        needs.append(f"attn_implementation: {implementation}")
    if str(values.get("gradient_checkpointing")) in {"offload", "offload_disk"}:
        needs.append(f"gradient_checkpointing: {values['gradient_checkpointing']}")
    needs += [
        f"{key}: {values[key]}"
        for key in ("activation_offloading", "gpu_memory_limit")
        if values.get(key)
    ]
    if any("liger" in plugin.lower() for plugin in config.plugins):
        needs += [
            f"{key}: true"
            for key in sorted(values)
            if key.startswith("liger_") and is_on(values[key])
        ]
    return needs


def require_gpu(config: Config, *, has_gpu: bool) -> None:
    """Check that the config can train on this machine at all.

    Raises:
        UsageError: it needs a GPU and there is none, naming the settings.
    """
    needs = [] if has_gpu else gpu_needs(config)
    if needs:
        raise UsageError(
            f"{config.path} needs a GPU, and this machine has none that torch can use:"
            f" {', '.join(needs)}.",
            f"Train on the CPU with:  {off_switches(needs)}"
            + (f"    or try the demo:  leviathan train {DEMO}" if Path(DEMO).is_file() else ""),
        )


def off_switches(needs: Sequence[str]) -> str:
    """The options that take away what needs a GPU; `needs` as `gpu_needs` gives it."""
    keys = [need.partition(":")[0].partition(" ")[0] for need in needs]
    others = {"attn_implementation": "sdpa", "gradient_checkpointing": "true"}
    others["gpu_memory_limit"] = "null"
    return " ".join(f"--set {key}={others.get(key, 'false')}" for key in keys)


def _kernels(values: Mapping[str, Any]) -> list[str]:
    """The LoRA kernels that would call CUDA, set or switched on by Axolotl itself.

    As in utils/schemas/config.py, `check_auto_enable_lora_kernels`, and
    monkeypatch/lora_kernels.py, `apply_lora_kernel_patches`.
    """
    adapter = values.get("adapter")
    if adapter not in {"lora", "qlora"}:
        return []
    by_itself = not (
        any(values.get(key) is not None for key in _KERNELS)
        or values.get("rl")
        or values.get("nvfp4_merge_aware")
        or is_on(values.get("trust_remote_code"))
        or (adapter == "lora" and is_on(values.get("load_in_8bit")))
    )
    quantised = adapter == "qlora" and is_on(values.get("load_in_4bit"))
    needs = []
    for key, modules in _TARGETS.items():
        on = by_itself or is_on(values.get(key))
        if on and (key == "lora_mlp_kernel" or quantised) and _targets(values, modules):
            needs.append(f"{key} (on if it is not set to false)" if by_itself else f"{key}: true")
    return needs


def _targets(values: Mapping[str, Any], modules: Sequence[str]) -> bool:
    """Whether the adapter covers all of these modules of a layer."""
    is_pattern = isinstance(values.get("lora_target_modules"), str)  # of whole names
    layer = "model.layers.0." if is_pattern else ""
    return all(covers(values, layer + module) for module in modules)


def covers(values: Mapping[str, Any], module: str) -> bool:
    """Whether the adapter covers the module of this name."""
    named = values.get("lora_target_modules") or []
    if is_on(values.get("lora_target_linear")) or named == "all-linear":
        return True
    if isinstance(named, str):
        with contextlib.suppress(re.error):
            return bool(re.fullmatch(named, module))
        return False
    return any(f".{module}".endswith(f".{name}") for name in named)


def attention(config: Config) -> str | None:
    """The attention that the config asks for, under its present name."""
    for key, name in _LEGACY_ATTENTION.items():
        if is_on(config.values.get(key)):
            return name
    value = config.values.get("attn_implementation")
    return str(value) if value else None


def is_on(value: Any) -> bool:
    """Whether Axolotl would take the value for true."""
    return value is True or value == 1 or str(value).lower() in {"true", "yes", "on", "1"}


def weights_bytes(config: Config) -> int | None:
    """What the base model's weights take on the GPU at least, in bytes; None if unknown."""
    folder = model_folder(str(config.values.get("base_model")))
    files = list(folder.glob("*.safetensors")) or list(folder.glob("*.bin")) if folder else []
    total = sum(file.stat().st_size for file in files)
    if is_on(config.values.get("load_in_4bit")):
        total //= 4
    elif is_on(config.values.get("load_in_8bit")):
        total //= 2
    return total or None


def checkpoint_bytes(config: Config) -> int | None:
    """The size of a LoRA checkpoint, estimated from the base model's shape; None if unknown.

    Adapter weights in 32 bits, the optimizer's two moments, and the tokenizer.
    """
    values = config.values
    folder = model_folder(str(values.get("base_model")))
    if folder is None or values.get("adapter") not in {"lora", "qlora"}:
        return None
    shape, rank = shape_of(folder), number(values, "lora_r")
    if isinstance(shape, str):
        return None
    hidden, queries, pairs, inner = shape.hidden, shape.queries, shape.pairs, shape.inner
    sides = {
        "self_attn.q_proj": hidden + queries,
        "self_attn.k_proj": hidden + pairs,
        "self_attn.v_proj": hidden + pairs,
        "self_attn.o_proj": queries + hidden,
        "mlp.gate_proj": hidden + inner,
        "mlp.up_proj": hidden + inner,
        "mlp.down_proj": inner + hidden,
    }
    adapter = (
        rank * shape.layers * sum(each for name, each in sides.items() if _targets(values, [name]))
    )
    whole = hidden * shape.vocabulary * len(values.get("lora_modules_to_save") or [])
    optimizer = str(values.get("optimizer") or "adamw_torch")
    moments = 2 if "8bit" in optimizer else 1 if "4bit" in optimizer else 8
    tokenizer = sum(
        file.stat().st_size for file in folder.glob("*token*") if file.suffix in {".json", ".model"}
    )
    return (adapter + whole) * (4 + moments) + tokenizer if adapter else None
