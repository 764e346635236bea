"""What a training will hold in the memory of its GPU: an estimate, part by part, without torch.

Weights, adapter, gradients and optimizer are counted tensor by tensor as Axolotl makes them;
tests compare them with those of a training. Activations follow from what torch saves of one
decoder layer of the Llama kind; what a driver and the allocator take is a round number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leviathan_train.config.base_model import Shape, model_folder, shape_of, weight_files
from leviathan_train.config.load import Config, normalise, number
from leviathan_train.config.requirements import covers, is_on
from leviathan_train.system.safetensors import HeaderError, read_header
from leviathan_train.system.units import size

CONTEXT = 600 << 20
"""Bytes of CUDA's context, cuBLAS's workspace and what the allocator cannot use."""
_FUSED_LOSS = 8
"""Parts in which a fused or chunked loss computes its logits."""
_QUANTISED_BLOCK = 64
"""Weights that share a scale in bitsandbytes' 4 bits; 256 scales share one of theirs."""
_SMALLEST_8BIT = 4096
"""Elements below which bitsandbytes and torchao keep an optimizer's state in 32 bits."""

# Bytes of state for each trained number. Of 8 and 4 bits, a 32-bit scale a block comes besides.
_STATES: tuple[tuple[str, int], ...] = (
    (r"sgd|schedule_free_sgd|sinkgd", 0),
    (r"adagrad|rmsprop|rmsprop_bnb(_32bit)?|lion_32bit|paged_lion_32bit|lion_pytorch|muon", 4),
    (r"(paged_)?ademamix(_32bit)?", 12),
    (r"(paged_)?adamw(_torch|_torch_fused|_hf|_32bit|_anyprecision)?|adopt_adamw|adamc", 8),
    (r"paged_adamw_32bit|schedule_free_(adamw|radam)|(stable|optimi)_adamw", 8),
)
# Pattern, states, bits and block of those that keep them in few bits.
_SMALL_STATES: tuple[tuple[str, int, int, int], ...] = (
    (r"(paged_)?adamw_(bnb_)?8bit", 2, 8, 256),
    (r"(paged_)?ademamix_8bit", 3, 8, 256),
    (r"(paged_)?lion_8bit|rmsprop_bnb_8bit", 1, 8, 256),
)


@dataclass(frozen=True)
class Part:
    """One thing that takes memory. `how` says from what `bytes` was reckoned."""

    name: str
    bytes: int
    how: str


@dataclass(frozen=True)
class Memory:
    """What a training holds at its peak.

    Attributes:
        unknown: what is missing to tell it; then there are no parts.
    """

    parts: tuple[Part, ...] = ()
    unknown: str = ""

    @property
    def bytes(self) -> int:
        """All parts together."""
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True)
class _Base:
    """The base model: shapes of its tensors by name, and what its `config.json` tells."""

    tensors: Mapping[str, tuple[int, ...]]
    shape: Shape


def memory(config: Config, *, context: int = CONTEXT) -> Memory:
    """The memory of one GPU that a LoRA, QLoRA or full fine-tune needs, at its longest row.

    Args:
        context: bytes to count for CUDA itself.
    """
    values = config.values
    for key in ("deepspeed", "fsdp", "fsdp_config"):
        if values.get(key):
            return Memory(unknown=f"with {key} the weights are spread over the GPUs")
    if values.get("rl"):
        return Memory(unknown=f"rl: {values['rl']} holds more than one model or answer")
    base = _base(config)
    if isinstance(base, str):
        return Memory(unknown=base)
    width = 2 if _is_half(values) else 4
    trained = _trained(values, base)
    if not trained:
        return Memory(unknown="which modules are trained is left to peft")
    numbers = sum(math.prod(shape) for _, shape in trained)
    full = not values.get("adapter")
    each = width if full else 4
    parts = [_weights(values, base, width)]
    if not full:
        parts.append(Part("adapter", numbers * each, f"{numbers:,} numbers in 32 bits"))
    parts += [
        Part("gradients", numbers * each, f"{numbers:,} numbers in {each * 8} bits"),
        _optimizer(values, trained, each),
        *_activations(values, base, width),
    ]
    if context:
        parts.append(Part("CUDA", context, "context, workspace and fragments: a round number"))
    return Memory(tuple(parts))


def tokens(values: Mapping[str, Any]) -> int:
    """Tokens of one forward pass at the longest row: `micro_batch_size` x `sequence_len`."""
    return number(values, "micro_batch_size", 1) * number(values, "sequence_len", 512)


def linear_modules(config: Config) -> list[str]:
    """Names of the base model's modules that an adapter may cover; empty if they are not known."""
    base = _base(config)
    if isinstance(base, str):
        return []
    found = (name for name, shape in base.tensors.items() if _is_linear(name, shape))
    return [name.removesuffix(".weight") for name in found]


def modules(config: Config) -> set[str]:
    """Names of the base model's modules with weights in or below them, as `linear_modules`."""
    base = _base(config)
    if isinstance(base, str):
        return set()
    parts = (name.split(".") for name in base.tensors)
    return {".".join(part[:count]) for part in parts for count in range(1, len(part))}


def _is_half(values: Mapping[str, Any]) -> bool:
    """Whether the model is loaded in 16 bits (axolotl, utils/config/__init__.py).

    `bf16: auto` is so on every GPU that Axolotl takes.
    """
    return any(
        is_on(values.get(key)) or values.get(key) == "auto"
        for key in ("bf16", "fp16", "bfloat16", "float16", "load_in_8bit")
    )


def _base(config: Config) -> _Base | str:
    """The base model that lies on this machine, or what is missing."""
    name = str(config.values.get("base_model"))
    folder = model_folder(name)
    if folder is None:
        return f"base_model {name} is not on this machine yet"
    shape = shape_of(folder)
    if isinstance(shape, str):
        return shape
    try:
        tensors = _tensors(folder)
    except (HeaderError, OSError):
        return f"the weights in {folder} cannot be read"
    return _Base(tensors, shape) if tensors else f"{folder} has no *.safetensors"


def _tensors(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor; one that two names share counts once, as on the disk."""
    return {
        name: entry.shape
        for file in weight_files(folder)
        if file.suffix == ".safetensors"
        for name, entry in read_header(file).items()
    }


def _is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is of a linear layer that is quantised, and gets an adapter."""
    return len(shape) == 2 and not re.search(r"embed|lm_head|norm|wte|wpe", name)


def _trained(values: Mapping[str, Any], base: _Base) -> list[tuple[str, tuple[int, ...]]]:
    """The tensors that the optimizer steps: the base's name that each belongs to, and its shape."""
    if not values.get("adapter"):
        return list(base.tensors.items())
    rank = number(values, "lora_r", 8)
    found: list[tuple[str, tuple[int, ...]]] = []
    for name, shape in base.tensors.items():
        module = name.removesuffix(".weight")
        if _is_linear(name, shape) and covers(values, module):
            found += [(name, (rank, shape[1])), (name, (shape[0], rank))]
            if is_on(values.get("peft_use_dora")):
                found.append((name, (shape[0],)))
        elif any(module.endswith(str(kept)) for kept in values.get("lora_modules_to_save") or []):
            found.append((name, shape))
    return found


def _weights(values: Mapping[str, Any], base: _Base, width: int) -> Part:
    """The base's tensors as bitsandbytes keeps them."""
    bits = 4 if is_on(values.get("load_in_4bit")) else 8 if is_on(values.get("load_in_8bit")) else 0
    total = small = whole = 0
    for name, shape in base.tensors.items():
        count = math.prod(shape)
        if not bits or not _is_linear(name, shape):
            whole += count
            total += count * width
            continue
        small += count
        if bits == 8:
            total += count + shape[0] * 4
        else:
            scales = math.ceil(count / _QUANTISED_BLOCK)
            total += math.ceil(count / 2) + scales + math.ceil(scales / 256) * 4
    how = f"{small:,} numbers in {bits} bits, {whole:,} in {width * 8}"
    return Part("weights", total, how if bits else f"{whole:,} numbers in {width * 8} bits")


def _optimizer(
    values: Mapping[str, Any], trained: list[tuple[str, tuple[int, ...]]], width: int
) -> Part:
    name = str(values.get("optimizer") or "adamw_torch_fused")
    counts = [(math.prod(shape), "embed" in of and len(shape) == 2) for of, shape in trained]
    numbers = sum(count for count, _ in counts)
    for pattern, states, bits, block in _SMALL_STATES:
        if re.fullmatch(pattern, name):
            total = sum(
                states * (count * bits // 8 + math.ceil(count / block) * 4)
                if count >= _SMALLEST_8BIT and not embeds
                else states * count * 4
                for count, embeds in counts  # transformers keeps an embedding's in 32 bits
            )
            where = ", which may move to the computer's memory" if "paged" in name else ""
            return Part("optimizer", total, f"{name}: {states} x {bits} bits a number{where}")
    for pattern, each in _STATES:
        if re.fullmatch(pattern, name):
            each = each * width // 4
            return Part("optimizer", numbers * each, f"{name}: {each} bytes a number")
    total = numbers * 8
    return Part("optimizer", total, f"{name}: not known, reckoned as 8 bytes a number")


def _layer(values: Mapping[str, Any], base: _Base, width: int) -> int:
    """Bytes that torch saves for each token in one decoder layer, for the way back.

    Counted with saved tensors' hooks (torch 2.13, transformers 5.16) in 16 and 32 bits.
    """
    rank = number(values, "lora_r", 8) if values.get("adapter") else 0
    shape = base.shape
    hidden, queries, pairs, inner = shape.hidden, shape.queries, shape.pairs, shape.inner
    if width == 4:
        found = 4 * (4 * hidden + 2 * queries + 2 * pairs + 4 * inner + 7 * rank)
    else:  # the norms are computed in 32 bits
        found = 2 * (9 * hidden + 3 * queries + 2 * pairs + 4 * inner + 7 * rank)
    if shape.norms_heads:
        found += 4 * (queries + pairs)
    dropout = normalise(values.get("lora_dropout"))
    if rank and isinstance(dropout, int | float) and dropout > 0:
        found += 5 * hidden + queries + inner  # a mask, a byte each
    return found


def _activations(values: Mapping[str, Any], base: _Base, width: int) -> list[Part]:
    count, shape = tokens(values), base.shape
    layer = _layer(values, base, width) * count
    again = values.get("gradient_checkpointing")
    if again in {"offload", "offload_disk"} or is_on(values.get("activation_offloading")):
        kept, how = 2 * shape.hidden * width * count, "kept outside of the GPU"
    elif is_on(again):
        kept = shape.layers * shape.hidden * width * count
        how = f"the input of {shape.layers} layers, {count:,} tokens; the rest is computed again"
    else:
        kept = shape.layers * layer
        how = f"{shape.layers} layers, {count:,} tokens, without gradient_checkpointing"
    # The loss holds its logits as log-probabilities and as two gradients, in 32 bits each.
    logits, of = 12 * shape.vocabulary * count, f"{count:,} tokens x {shape.vocabulary:,} words"
    if _fuses_loss(values):
        logits, of = logits // _FUSED_LOSS, f"{of}, a part at a time"
    parts = [Part("activations", kept, how)]
    if logits >= layer or not is_on(again):
        return [*parts, Part("logits", logits, f"{of} in 32 bits, three times")]
    less = f"one layer computed again; the logits take {size(logits)}, at another time"
    return [*parts, Part("layer", layer, less)]


def _fuses_loss(values: Mapping[str, Any]) -> bool:
    """Whether the logits never exist as a whole."""
    return any(
        is_on(values.get(key))
        for key in (
            "cut_cross_entropy",
            "liger_fused_linear_cross_entropy",
            "chunked_cross_entropy",
            "unsloth_cross_entropy_loss",
        )
    )
