"""What base and adapter are together, as bitsandbytes and peft compute it.

Imported only by the merge's own process. Line references are to axolotl 0.19, peft 0.20
and transformers 5.16.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from axolotl.cli.utils import lora_merge
from bitsandbytes.nn import Params4bit
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from transformers.integrations.bitsandbytes import dequantize_bnb_weight
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils import is_torch_bf16_gpu_available

from leviathan_train.errors import LeviathanError
from leviathan_train.merge import adapters
from leviathan_train.merge.adapters import PREFIX, read_header, weight_files
from leviathan_train.merge.merging import Job

_WRAPPING = re.compile(r"\.base_layer|\.modules_to_save\.default")
_NOT_WHOLE = re.compile(r"\.(lora_\w+|original_module)\.")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Weights:
    """The tensors of some safetensors files, read one at a time."""

    def __init__(self, files: list[Path]) -> None:
        self.file: dict[str, Path] = {}
        self.header: dict[str, Any] = {}
        for path in files:
            header = read_header(path)
            self.header |= header
            self.file |= dict.fromkeys(header, path)

    @classmethod
    def of_model(cls, folder: str) -> Weights:
        return cls(weight_files(Path(folder)))

    @classmethod
    def of_adapter(cls, folder: str) -> Weights:
        return cls([Path(folder) / adapters.WEIGHTS])

    def names(self) -> list[str]:
        return sorted(self.file)

    def bytes(self) -> int:
        return sum(path.stat().st_size for path in set(self.file.values()))

    def tensor(self, name: str) -> Any:
        with safe_open(self.file[name], framework="pt", device="cpu") as stream:
            return stream.get_tensor(name)


class Skeleton:
    """The base's architecture without its weights.

    Attributes:
        names: of the tensors in memory.
        tied: names of tensors that are the same as another, by which they are on disk.
        dtype: the number format that training loaded the base in.
        rounded: names of the weights that training rounded to 4 bits.
        fuses: whether some tensors on disk become one in memory (experts).
    """

    def __init__(self, job: Job) -> None:
        base = Path(job.base)
        self.model = lora_merge._build_meta_model(base, trust_remote_code=job.trust_remote_code)
        if self.model is None:
            raise LeviathanError(
                f"transformers does not know the architecture of {base}.",
                "If the model brings its own code, set trust_remote_code: true in the config.",
            )
        self._renamings, converters = lora_merge._get_conversion_info(
            base, trust_remote_code=job.trust_remote_code, meta_model=self.model
        )
        self.fuses = bool(converters)
        self.tied: dict[str, str] = dict(self.model.all_tied_weights_keys or {})
        self.names: set[str] = set(self.model.state_dict()) | self.tied.keys()
        auto = "bfloat16" if is_torch_bf16_gpu_available() else "float32"
        self.dtype = getattr(torch, auto if job.dtype == "auto" else job.dtype)
        self.rounded = self._rounded(job.skip_modules) if job.quantised else set()

    def name_of(self, key: str) -> str | None:
        """The name in memory of a tensor on disk; None if it becomes part of another."""
        candidates = [key, *lora_merge._renamed_key_candidates(key, self._renamings)]
        return next((name for name in candidates if name in self.names), None)

    def _rounded(self, skip: list[str] | None) -> set[str]:
        """The layers that transformers loads in 4 bits (integrations/bitsandbytes.py:165)."""
        if skip is None and self.model.config.model_type == "falcon_h1":
            skip = ["out_proj"]  # axolotl loaders/model.py:821
        keep = HfQuantizer.get_modules_to_not_convert(
            self.model, skip, self.model._keep_in_fp32_modules
        )
        return {
            f"{name}.weight"
            for name, module in self.model.named_modules()
            if type(module) in (torch.nn.Linear, Conv1D) and should_convert_module(name, keep)
        }


class Reference:
    """The tensors of base and adapter together, one at a time, in 32 bits.

    peft holds the model with stand-ins of no size for its weights; a layer gets its real
    one when it is its turn.

    Attributes:
        key: name in memory to name on disk.
        changed: names of the tensors that the adapter changes.
    """

    def __init__(self, job: Job, skeleton: Skeleton) -> None:
        self.job, self.skeleton = job, skeleton
        self.base = Weights.of_model(job.base)
        self.key = {skeleton.name_of(key): key for key in self.base.names()}
        brought = Weights.of_adapter(job.adapter).header  # whole tensors, maybe of more rows
        shapes = {key.removeprefix(PREFIX): entry["shape"] for key, entry in brought.items()}
        for path, module in skeleton.model.named_modules():
            for part, value in module._parameters.items():
                if value is not None:
                    shape = shapes.get(f"{path}.{part}", value.shape)
                    stand_in = torch.zeros(1).expand(*shape)
                    module._parameters[part] = torch.nn.Parameter(stand_in, requires_grad=False)
        model = PeftModel.from_pretrained(skeleton.model, job.adapter, low_cpu_mem_usage=True)
        model = model.base_model.model
        self._layers: dict[str, Any] = {}
        for name, module in model.named_modules():
            if isinstance(module, BaseTunerLayer):
                self._layers[_WRAPPING.sub("", name)] = module
        self._whole = {
            _WRAPPING.sub("", name): value.detach()
            for name, value in model.named_parameters(remove_duplicate=False)
            if not _NOT_WHOLE.search(name)
            and value.untyped_storage().nbytes() > value.element_size()
        }
        self.changed = set(self._whole) | {f"{path}.weight" for path in self._layers}
        self.changed |= {
            f"{path}.bias" for path, layer in self._layers.items() if any(layer.lora_bias.values())
        }

    def tensor(self, name: str) -> Any:
        """The tensor `name` as base and adapter make it."""
        path, _, part = name.rpartition(".")
        layer = self._layers.get(path)
        if layer is None:
            return self.before(name).float()
        inner = layer.get_base_layer()
        stand_ins = dict(inner._parameters)
        try:
            for own in [own for own, value in stand_ins.items() if value is not None]:
                real = self.before(f"{path}.{own}").to(torch.float32, copy=True)
                inner._parameters[own] = torch.nn.Parameter(real, requires_grad=False)
            layer.merge(adapter_names=["default"])
            return inner._parameters[part].detach()
        finally:
            layer.merged_adapters.clear()
            inner._parameters.update(stand_ins)

    def before(self, name: str) -> Any:
        """The tensor without LoRA: brought whole by the adapter, or the base's as trained on."""
        if name in self._whole:
            return self._whole[name]
        weight = self.base.tensor(self.key.get(name) or self.key[self.skeleton.tied[name]])
        if name not in self.skeleton.rounded:
            return weight
        rounded = Params4bit(
            weight.to(self.skeleton.dtype).contiguous(),
            requires_grad=False,
            quant_type="nf4",
            compress_statistics=self.job.double_quant,
        ).to(DEVICE)
        return dequantize_bnb_weight(rounded).to("cpu", weight.dtype)
