"""Merges by the merge's own code in about a second: a server imports it once and forks for each.

For what does not concern the command line. Adapters come from peft with weights at random,
so that each changes what its model answers.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from leviathan_train.merge.job import Job

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPTS = ["What is 12 + 30?", "Give the opposite of the word. deep", "tide reef mast kelp"]


IMPORTS = (
    "leviathan_train.jobs.merge",
    "peft.tuners.lora.bnb",
    "transformers.models.llama.modeling_llama",
)


class Foundry:
    """The server's client. Use it in a `with`."""

    def __init__(self, env: Mapping[str, str], python: str = sys.executable) -> None:
        self._process = subprocess.Popen(
            [python, __file__],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Foundry:
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

    def _ask(self, **order: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "trace" not in answer, answer["trace"]
        return answer

    def model(self, like: Path, out: Path, *, dtype: str = "float32", **config: Any) -> Path:
        """Write a model of random weights, as `like` but for `config`."""
        self._ask(do="model", like=str(like), out=str(out), dtype=dtype, config=config)
        return out

    def adapter(self, base: Path, out: Path, *, rows: int = 0, **lora: Any) -> Path:
        """Write an adapter of random weights; of `rows` in the vocabulary, if given."""
        self._ask(do="adapter", base=str(base), out=str(out), rows=rows, lora=lora)
        return out

    def merge(self, base: Path, adapter: Path, out: Path, **job: Any) -> Any:
        """Merge; the result, or `{"refused": why}`."""
        values = {
            "quantised": False,
            "double_quant": True,
            "quantise_experts": False,
            "skip_modules": None,
            "dtype": "float32",
            "trust_remote_code": False,
            "prove": "weights",
            "parent": 0,
        } | job
        order = asdict(Job(base=str(base), adapter=str(adapter), out=str(out), **values))
        return self._ask(do="merge", job=order)

    def axolotl(self, base: Path, adapter: Path, out: Path, **how: Any) -> None:
        """Merge as Axolotl does by itself, by `how` its function is called."""
        order = {"base": str(base), "adapter": str(adapter), "out": str(out)}
        self._ask(do="axolotl", how=how, **order)

    def versus_peft(self, base: Path, adapter: Path, merged: Path, **trained: Any) -> Any:
        """Compare a merged model's files with what peft's `merge_and_unload` makes.

        Its base is loaded by transformers, in 4 bits by bitsandbytes where `trained` says so
        (`in_4bit`, `double_quant`, `skip`, `dtype`), and then taken back to 32 bits.

        Returns:
            `tensors`: how many were compared; `differ`: what is wrong, by name.
        """
        order = {"base": str(base), "adapter": str(adapter), "merged": str(merged)}
        return self._ask(do="versus_peft", **order, **trained)

    def difference(self, first: Path, second: Path) -> Any:
        """The `largest` difference of two models' tensors, and names `only_in_one`."""
        return self._ask(do="difference", first=str(first), second=str(second))

    def compare(self, base: Path, adapter: Path, merged: Path, *, in_4bit: bool) -> Any:
        """How the answers of a merged model differ from those of base and adapter.

        Returns:
            `difference`: of logits, at most; `agreement`: share of the same most likely
            token; `generated`: how many tokens plain transformers generate with it.
        """
        order = {"base": str(base), "adapter": str(adapter), "merged": str(merged)}
        return self._ask(do="compare", in_4bit=in_4bit, **order)


def _model(like: str, out: str, dtype: str, config: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    size = config.pop("max_shard_size", "5GB")
    kind = config.pop("model_type", "")
    values = AutoConfig.for_model(kind) if kind else AutoConfig.from_pretrained(like)
    for key, value in config.items():
        setattr(values, key, value)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(values, dtype=getattr(torch, dtype))
    for name, value in model.named_parameters():
        if name.endswith(".bias"):
            value.data.normal_()
    model.save_pretrained(out, max_shard_size=size)
    AutoTokenizer.from_pretrained(like).save_pretrained(out)


def _adapter(base: str, out: str, rows: int, lora: dict[str, Any]) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(rows)
    values = {"r": 8, "lora_alpha": 16, "target_modules": LAYERS, "task_type": "CAUSAL_LM"}
    adapted = get_peft_model(model, LoraConfig(**values | lora))
    for name, value in adapted.named_parameters():
        if "magnitude" in name:
            value.data *= 1 + 0.1 * torch.rand_like(value)
        elif value.requires_grad:
            value.data += 0.05 * torch.randn_like(value)
    adapted.save_pretrained(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)


def _merge(job: dict[str, Any]) -> Any:
    from leviathan_train.errors import LeviathanError
    from leviathan_train.jobs.merge import Merge

    try:
        return asdict(Merge(Job(**job), lambda event: None).run())
    except LeviathanError as error:
        return {"refused": error.message}


def _axolotl(base: str, adapter: str, out: str, how: dict[str, Any]) -> None:
    from axolotl.cli.utils.lora_merge import merge_lora_sharded_efficient

    merge_lora_sharded_efficient(base, adapter, out, **how)


def _versus_peft(
    base: str,
    adapter: str,
    merged: str,
    in_4bit: bool = False,
    double_quant: bool = True,
    skip: list[str] | None = None,
    dtype: str = "float32",
    experts: bool = False,
) -> Any:
    import tempfile

    import torch
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit
    from bitsandbytes.nn.parametrize import replace_parameter_4bit
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        llm_int8_skip_modules=skip,
    )
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=getattr(torch, dtype), quantization_config=nf4 if in_4bit else None
    )
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Linear4bit):
            weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            plain = torch.nn.Linear(*reversed(weight.shape), bias=layer.bias is not None)
            plain.weight = torch.nn.Parameter(weight, requires_grad=False)
            if layer.bias is not None:
                plain.bias = layer.bias
            model.set_submodule(name, plain)
    for name, value in list(model.named_parameters()):
        if experts and value.ndim == 3:  # as axolotl does it, monkeypatch/moe_quant.py
            path, _, part = name.rpartition(".")
            module = model.get_submodule(path)
            replace_parameter_4bit(module, part, compress_statistics=True, quant_type="nf4")
            whole = getattr(module, part).detach().clone()
            torch.nn.utils.parametrize.remove_parametrizations(module, part, False)
            setattr(module, part, torch.nn.Parameter(whole, requires_grad=False))
    for value in {*model.parameters()}:
        value.data = value.data.float()
    _resize(model, adapter)
    # merge_and_unload adds to a tied weight in place, and so to both that share it.
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    for key in ("quantization_config", "_pre_quantization_dtype"):
        model.config.__dict__.pop(key, None)
    model.is_quantized, model.hf_quantizer = False, None
    model.config.tie_word_embeddings = False
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        wanted = _tensors(folder)
    got = _tensors(merged)
    head = wanted.get("lm_head.weight")
    tied = "lm_head.weight" not in got and head is not None
    if tied and torch.equal(head, wanted["model.embed_tokens.weight"]):
        del wanted["lm_head.weight"]  # otherwise it should have been written
    differ = dict.fromkeys(got.keys() ^ wanted.keys(), "is only in one of them")
    for name in got.keys() & wanted.keys():
        mine, theirs = got[name], wanted[name].to(got[name].dtype)
        if mine.shape != theirs.shape:
            differ[name] = f"has the shape {list(mine.shape)} instead of {list(theirs.shape)}"
        elif not torch.equal(mine, theirs):
            differ[name] = f"is off by {float((mine.float() - theirs.float()).abs().max()):.3g}"
    return {"tensors": len(got), "differ": differ}


def _tensors(folder: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for file in Path(folder).glob("model*.safetensors"):
        found |= load_file(file)
    return found


def _difference(first: str, second: str) -> Any:
    a, b = _tensors(first), _tensors(second)
    both = a.keys() & b.keys()
    return {
        "largest": max(float((a[name].float() - b[name].float()).abs().max()) for name in both),
        "only_in_one": sorted(a.keys() ^ b.keys()),
    }


def _resize(model: Any, adapter: str) -> None:
    """Make the vocabulary of a model as large as that of the adapter's own embeddings."""
    from safetensors import safe_open

    with safe_open(f"{adapter}/adapter_model.safetensors", "pt") as stream:
        names = list(stream.keys())
        whole = [name for name in names if re.search(r"embed_tokens(\.base_layer)?\.weight$", name)]
        rows = stream.get_slice(whole[0]).get_shape()[0] if whole else 0
    if rows and rows != model.config.vocab_size:
        model.resize_token_embeddings(rows)


def _compare(base: str, adapter: str, merged: str, in_4bit: bool) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    tokenizer = AutoTokenizer.from_pretrained(merged)
    prompts = [tokenizer(text, return_tensors="pt").input_ids for text in PROMPTS]
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    reference = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, quantization_config=nf4 if in_4bit else None
    )
    _resize(reference, adapter)
    reference = PeftModel.from_pretrained(reference, adapter).eval()
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    difference, same = 0.0, []
    with torch.no_grad():
        for prompt in prompts:
            a, b = reference(prompt).logits, model(prompt).logits
            difference = max(difference, float((a - b).abs().max()))
            same.append((a.argmax(-1) == b.argmax(-1)).flatten())
        new = model.generate(prompts[0], max_new_tokens=5, min_new_tokens=5, do_sample=False)
    return {
        "difference": difference,
        "agreement": float(torch.cat(same).float().mean()),
        "generated": new.shape[1] - prompts[0].shape[1],
    }


_DEEDS: dict[str, Callable[..., Any]] = {
    "model": _model,
    "adapter": _adapter,
    "merge": _merge,
    "axolotl": _axolotl,
    "versus_peft": _versus_peft,
    "difference": _difference,
    "compare": _compare,
}


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is no answer
    for name in IMPORTS:
        importlib.import_module(name)

    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                answer = _DEEDS[order.pop("do")](**order)
            except BaseException:
                answer = {"trace": traceback.format_exc()}
            answers.write(json.dumps(answer or {}) + "\n")
            answers.flush()
            os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    _serve()
