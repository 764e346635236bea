"""`--prove logits`: what the merged model answers, beside base and adapter as they were trained.

It shares nothing with the merge: transformers, bitsandbytes and peft load and compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from leviathan_train.errors import LeviathanError
from leviathan_train.jobs.merge_upstream import DEVICE
from leviathan_train.jobs.reference import FORMATS, Weights
from leviathan_train.merge.adapters import PREFIX
from leviathan_train.merge.job import Job, Progress

PROMPTS = (
    "The harbour lay quiet under the morning fog.",
    "### Instruction:\nWhat is 17 + 25?\n\n### Response:\n",
    "def fibonacci(n):\n    return n if n < 2 else",
    "Once upon a time, in a village by the sea, there lived",
)


def compare_answers(job: Job, trained_in: Any, tell: Callable[[Progress], None]) -> dict[str, Any]:
    """Compare the answers of the merged model with those of base and adapter.

    In 32 bits where the memory allows it, so that only the merge is judged.

    Args:
        trained_in: the number format in which training loaded the base.

    Raises:
        LeviathanError: they differ by more than number formats explain.
    """
    base = Weights.of_model(job.base)
    formats = {FORMATS.get(entry.dtype) for entry in base.entry.values()}
    room = torch.cuda.mem_get_info()[0] if DEVICE == "cuda" else psutil.virtual_memory().available
    # What training rounded to 4 bits, it had loaded in its own format before.
    exact = not job.quantised or formats == {trained_in} or trained_in == torch.float32
    dtype = torch.float32 if exact and 4 * base.bytes() < room / 2 else trained_in
    tokenizer = AutoTokenizer.from_pretrained(job.out)
    prompts = [tokenizer(text, return_tensors="pt").input_ids for text in PROMPTS]
    tell(Progress("proving", 0, 2, "the answers of base and adapter"))
    wanted = answers(adapted_model(job, dtype), prompts)
    tell(Progress("proving", 1, 2, "the answers of the merged model"))
    got = answers(merged_model(job, dtype), prompts)
    tell(Progress("proving", 2, 2))
    difference, scale = float((got - wanted).abs().max()), float(wanted.abs().max())
    agreement = float((got.argmax(-1) == wanted.argmax(-1)).float().mean())
    if not (difference <= 0.1 * scale and agreement >= 0.9):
        raise LeviathanError(
            f"The merged model does not answer as base and adapter: its logits differ by up to"
            f" {difference:.3g}, {agreement:.1%} of the most likely tokens agree. It was removed.",
            "Please report it. To keep the model anyway:  --prove weights",
        )
    return {
        "tokens": len(got),
        "max_difference": difference,
        "largest_logit": scale,
        "agreement": agreement,
        "computed_in": str(dtype).removeprefix("torch."),
    }


def answers(model: Any, prompts: list[Any]) -> Any:
    """A model's logits at every token of the prompts."""
    model.eval()
    with torch.no_grad():
        found = [model(prompt.to(model.device)).logits[0].float().cpu() for prompt in prompts]
    return torch.cat(found)


def adapted_model(job: Job, dtype: Any) -> Any:
    """The base as it was trained, with the adapter on it."""
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=job.double_quant,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=job.skip_modules,
    )
    model = AutoModelForCausalLM.from_pretrained(
        job.base,
        dtype=dtype,
        quantization_config=quantisation if job.quantised else None,
        device_map={"": DEVICE},
        trust_remote_code=job.trust_remote_code,
    )
    shapes = {
        key.removeprefix(PREFIX).replace(".base_layer.", "."): entry.shape
        for key, entry in Weights.of_adapter(job.adapter).entry.items()
    }
    for name, value in model.named_parameters():
        if name in shapes and shapes[name][0] != value.shape[0]:
            model.resize_token_embeddings(shapes[name][0], mean_resizing=False)
            break
    return PeftModel.from_pretrained(model, job.adapter)


def merged_model(job: Job, dtype: Any) -> Any:
    """The merged model, as anybody would load it."""
    return AutoModelForCausalLM.from_pretrained(
        job.out, dtype=dtype, device_map={"": DEVICE}, trust_remote_code=job.trust_remote_code
    )
