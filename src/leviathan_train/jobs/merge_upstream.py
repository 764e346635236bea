"""What the merge uses of transformers, peft, bitsandbytes and Axolotl below their documented API.

The one file of the merge to look into when one of them changes. Seen with transformers 5.16 and
5.20, peft 0.20 and 0.21, bitsandbytes 0.50, axolotl 0.19 and 0.21.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftConfig, get_peft_model
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.initialization import no_tie_weights
from transformers.quantizers.auto import AutoHfQuantizer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Modules that peft puts around those of the base.
_WRAPPING = re.compile(r"\.(base_layer|modules_to_save(\.default)?|token_adapter)(?=\.|$)")
_NOT_OF_THE_BASE = re.compile(r"\.(lora_\w+|original_module|trainable_tokens_\w+)\.")


def skeletons(base: Path, *, trust_remote_code: bool) -> Iterator[Any]:
    """The base's architecture, without weights, as each of transformers' classes builds it.

    A model of text and images has two: Axolotl trains either (loaders/model.py).
    """
    config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    for kind in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModel):
        # ValueError is transformers' answer to a config that the class does not know.
        with contextlib.suppress(ValueError), torch.device("meta"):
            yield kind.from_config(deepcopy(config), trust_remote_code=trust_remote_code)


def tied_weights(skeleton: Any) -> dict[str, str]:
    """Names of weights that are the same as another: copy to source."""
    # transformers, PreTrainedModel.post_init: `_tied_weights_keys` of all submodels, expanded.
    return dict(skeleton.all_tied_weights_keys or {})


def embedding_names(skeleton: Any) -> set[str]:
    """Names of the weights with a row for each token: input embeddings and output head."""
    modules = [skeleton.get_input_embeddings(), skeleton.get_output_embeddings()]
    return {
        f"{name}.weight"
        for name, module in skeleton.named_modules()
        if any(module is found for found in modules)
    }


def resize(skeleton: Any, rows: int) -> None:
    """Give the vocabulary another size, as Axolotl does for added tokens."""
    with torch.device("meta"):
        skeleton.resize_token_embeddings(rows, mean_resizing=False)


def rounded_weights(skeleton: Any, skip: list[str] | None) -> set[str]:
    """Names of the weights that transformers loads in 4 bits: it replaces the layers itself.

    Args:
        skip: `llm_int8_skip_modules` of the training.
    """
    config = deepcopy(skeleton.config)
    if skip is None:
        skip = _skipped_by_axolotl(config.model_type)
    # from_pretrained quantises before it ties, and the last module is kept: which one that is
    # depends on the tie (transformers, quantizers/base.py, get_keys_to_not_convert).
    with torch.device("meta"), no_tie_weights():
        model = type(skeleton)(config)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=skip)
    quantizer = AutoHfQuantizer.from_config(nf4, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map=None)
    return {
        f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, Linear4bit)
    }


def _skipped_by_axolotl(model_type: str) -> list[str] | None:
    """What Axolotl keeps unquantised if the config names nothing."""
    try:
        from axolotl.utils.nf4 import bnb_4bit_skip_modules  # 0.21
    except ImportError:
        # 0.19, loaders/model.py, _set_quantization_config
        return ["out_proj"] if model_type == "falcon_h1" else None
    names: list[str] | None = bnb_4bit_skip_modules(model_type)
    return names


def rounded(weight: Any, *, double_quant: bool) -> Any:
    """A weight as it is after bitsandbytes has kept it in NF4, in the same number format.

    The same blocks as of `Params4bit`, and as of Axolotl's experts of three dimensions
    (bitsandbytes.nn.parametrize): 64 values that follow one another.
    """
    data, state = quantize_4bit(
        weight.contiguous().to(DEVICE), compress_statistics=double_quant, quant_type="nf4"
    )
    return dequantize_4bit(data, state).to("cpu")


class Conversion:
    """How tensors on disk become those in memory, and back: transformers' own mapping.

    Most keep their name or get another. Some are put together or taken apart, as experts are.

    Attributes:
        name: of the tensor in memory, by its key on disk; of a group, the first name.
        groups: first name in memory to the keys on disk of what is converted, not just renamed.
    """

    def __init__(self, skeleton: Any, keys: list[str]) -> None:
        self._skeleton = skeleton
        state = skeleton.state_dict()
        # As in transformers, core_model_loading.py, convert_and_load_state_dict_in_model.
        mapping = get_model_conversion_mapping(skeleton)
        renamings = [step for step in mapping if isinstance(step, WeightRenaming)]
        converters = [step for step in mapping if isinstance(step, WeightConverter)]
        self._by_pattern = {
            pattern: step for step in converters for pattern in step.source_patterns
        }
        self._pattern: dict[str, str] = {}
        self.name: dict[str, str] = {}
        self.groups: dict[str, list[str]] = {}
        prefix = skeleton.base_model_prefix
        for key in sorted(keys, key=_natural):
            name, pattern = rename_source_key(key, renamings, converters, prefix, state)
            if name not in state and key in state:
                name, pattern = rename_source_key(key, [], [], prefix, state)
            self.name[key] = name
            if pattern is not None and name in state:  # else transformers leaves it out
                self._pattern[key] = pattern
                self.groups.setdefault(name, []).append(key)

    def load(self, name: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors in memory that a group on disk makes.

        Args:
            name: of the group.
            tensors: all its tensors by their keys on disk; on the meta device too.
        """
        step = deepcopy(self._by_pattern[self._pattern[self.groups[name][0]]])
        for key in self.groups[name]:
            step.add_tensor(name, key, self._pattern[key], tensors[key])
        found = step.convert(name, model=self._skeleton, config=self._skeleton.config)
        return {key: value[0] if isinstance(value, list) else value for key, value in found.items()}

    def save(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors in memory by the keys, and in the parts, in which a model is saved."""
        saved: dict[str, Any] = revert_weight_conversion(self._skeleton, dict(tensors))
        return saved

    def key_of(self, name: str) -> str:
        """The key under which a tensor is saved that the base does not hold."""
        return next(iter(self.save({name: torch.empty(1, device="meta")})))


def _natural(key: str) -> list[tuple[int, int | str]]:
    """So that expert 10 comes after expert 9."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in key.split(".")]


class Adapted:
    """peft's model of base and adapter, whose base weights are stand-ins of no size.

    Attributes:
        layers: by the name of a base's tensor, the peft layer that changes it.
        whole: tensors that the adapter brings whole, by the name of the base's.
        unexpected, missing: what the adapter holds too much, and too little.
    """

    def __init__(self, skeleton: Any, adapter: Path) -> None:
        """Put the adapter on the skeleton, which is changed."""
        for module in skeleton.modules():
            for part, value in module._parameters.items():
                if value is not None:
                    stand_in = torch.zeros(1).expand(*value.shape)
                    module._parameters[part] = torch.nn.Parameter(stand_in, requires_grad=False)
        config = PeftConfig.from_pretrained(adapter)
        config.inference_mode = True
        # As PeftModel.from_pretrained, which keeps to itself what did not fit.
        wrapped = get_peft_model(skeleton, config, low_cpu_mem_usage=True)
        result = wrapped.load_adapter(
            str(adapter),
            "default",
            low_cpu_mem_usage=True,
            key_mapping=getattr(skeleton, "_checkpoint_conversion_mapping", {}),
        )
        self.unexpected: list[str] = sorted(result.unexpected_keys)
        self.missing: list[str] = sorted(result.missing_keys)
        model = wrapped.base_model.model
        self.layers: dict[str, Any] = {}
        for path, module in model.named_modules():
            if isinstance(module, BaseTunerLayer):
                for part in _changed_parts(module):
                    self.layers[f"{base_name(path)}.{part}"] = module
        self.whole = {
            base_name(name): value.detach()
            for name, value in model.named_parameters(remove_duplicate=False)
            if not _NOT_OF_THE_BASE.search(name)
            and value.untyped_storage().nbytes() > value.element_size()  # no stand-in
        }

    def merged(self, name: str, before: Mapping[str, Any]) -> Any:
        """The tensor `name` of a layer as peft merges it, in 32 bits.

        Args:
            before: the layer's tensors in 32 bits, by the parts that `parts` names; changed.
        """
        layer, part = self.layers[name], name.rpartition(".")[2]
        inner = layer.get_base_layer()
        stand_ins = dict(inner._parameters)
        try:
            for own, value in before.items():
                inner._parameters[own] = torch.nn.Parameter(value, requires_grad=False)
            layer.merge(adapter_names=["default"])
            return inner._parameters[part].detach()
        finally:
            layer.merged_adapters.clear()
            inner._parameters.update(stand_ins)

    def parts(self, name: str) -> list[str]:
        """The tensors of its layer that merging `name` touches, e.g. weight and bias."""
        layer = self.layers[name]
        if isinstance(layer, ParamWrapper):
            return [layer.parameter_name]
        own = layer.get_base_layer()._parameters
        return [part for part, value in own.items() if value is not None]


def _changed_parts(layer: Any) -> list[str]:
    if isinstance(layer, ParamWrapper):  # of lora_target_parameters; one for each tensor
        return [layer.parameter_name]
    has_bias = getattr(layer.get_base_layer(), "bias", None) is not None
    biased = has_bias and any(getattr(layer, "lora_bias", {}).values())
    return ["weight", "bias"] if biased else ["weight"]


def base_name(name: str) -> str:
    """The base's own name of a tensor or module that peft has wrapped."""
    return _WRAPPING.sub("", name)
