"""Base models of any size without their bytes: a header, and a hole where the weights would be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from leviathan_train.system.safetensors import Entry, write_header

QWEN3_8B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}


def hollow_base(folder: Path, shape: dict[str, Any] = QWEN3_8B) -> Path:
    """Make a folder that looks like the base model of this shape, in bfloat16."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape))
    (folder / "tokenizer.json").write_text("{}")
    hidden, inner, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    queries, pairs = (shape[f"num_{kind}_heads"] * head for kind in ("attention", "key_value"))
    layer = {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (pairs, hidden),
        "self_attn.v_proj": (pairs, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    tensors: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (shape["vocab_size"], hidden),
        "lm_head.weight": (shape["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    } | {
        f"model.layers.{number}.{name}.weight": dimensions
        for number in range(shape["num_hidden_layers"])
        for name, dimensions in layer.items()
    }
    sizes = {name: math.prod(dimensions) * 2 for name, dimensions in tensors.items()}
    header = write_header(
        (name, Entry("BF16", dimensions, 0, sizes[name])) for name, dimensions in tensors.items()
    )
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + sum(sizes.values()))
    return folder
