"""The model card of a merged model, in Hugging Face's format."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leviathan_train.config.base_model import is_local
from leviathan_train.config.inputs import is_data_file
from leviathan_train.config.load import entries
from leviathan_train.config.redact import redact

_SETTINGS = (
    "adapter",
    "load_in_4bit",
    "load_in_8bit",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_linear",
    "lora_target_modules",
    "lora_modules_to_save",
    "peft_use_dora",
    "peft_use_rslora",
    "sequence_len",
    "sample_packing",
    "num_epochs",
    "max_steps",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "optimizer",
    "learning_rate",
    "lr_scheduler",
    "warmup_steps",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "bf16",
    "seed",
)


def render(record: Mapping[str, Any], settings: Mapping[str, Any], base: Path) -> str:
    """The README.md of a merged model.

    Args:
        record: as written to `leviathan_merge.json`.
        settings: of the training; credentials in them are left out.
        base: the base model's folder, for its licence.
    """
    settings = redact(settings)
    name = str(record["base"]["name"])
    title = Path(str(record["path"])).name
    sections = [
        f"---\n{_metadata(settings, name, base)}\n---",
        f"# {title}",
        f"{_shown(name)} with {record['adapter']['name']} of the run"
        f" `{record['run']}` merged into it. It needs no adapter and no quantisation to load:",
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{title}", dtype="auto")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{title}")\n'
        "```",
        "## Training",
        _table(_reached(record)),
        "### Data",
        "\n".join(f"- {line}" for line in _data(settings)) or "Not known.",
        "### Settings",
        _table({key: settings[key] for key in _SETTINGS if settings.get(key) is not None}),
        "## Merge",
        _precision(record),
        _proof(record["proof"]),
        f"Merged {time.strftime('%Y-%m-%d', time.gmtime(record['time']))} by leviathan-train;"
        " hashes and versions are in `leviathan_merge.json`.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(settings: Mapping[str, Any], base_name: str, base: Path) -> str:
    """The YAML block that the hub reads."""
    from huggingface_hub import ModelCardData  # a second; only a merge needs it

    local = is_local(base_name)
    found: str = ModelCardData(
        base_model=None if local else base_name,
        base_model_relation=None if local else "finetune",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["axolotl", str(settings.get("adapter") or "lora"), "merged"],
        datasets=[str(entry["path"]) for entry in _entries(settings) if _on_hub(entry)] or None,
        **_licence(base),
    ).to_yaml()
    return found


def _licence(base: Path) -> dict[str, Any]:
    """The licence that the base model's own card names; it binds what is made from it."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        text = (base / "README.md").read_text("utf-8")
        card: Any = ModelCard(text, ignore_metadata_errors=True)
        data = card.data.to_dict()
    except (OSError, ValueError, TypeError, YAMLError):  # a stranger's card does not matter
        return {}
    return {key: data[key] for key in ("license", "license_name", "license_link") if key in data}


def _entries(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for _, _, entry in entries(settings, "datasets") if entry.get("path")]


def _on_hub(entry: Mapping[str, Any]) -> bool:
    return "://" not in str(entry["path"]) and not is_data_file(str(entry["path"]))


def _data(settings: Mapping[str, Any]) -> list[str]:
    lines = []
    for entry in _entries(settings):
        path = str(entry["path"])
        shown = f"`{path if _on_hub(entry) else Path(path).name}`"
        kind = entry.get("type")
        parts = [f"as {kind}"] if isinstance(kind, str) else []
        parts += [f"1 of {entry['shards']} shards"] if entry.get("shards") else []
        lines.append(", ".join([shown, *parts]))
    return lines


def _reached(record: Mapping[str, Any]) -> dict[str, Any]:
    words = {"step": "Step", "epoch": "Epoch", "loss": "Loss", "eval_loss": "Eval loss"}
    found = {word: record[key] for key, word in words.items() if record[key] is not None}
    return {
        key: f"{value:.4g}" if isinstance(value, float) else value for key, value in found.items()
    }


def _precision(record: Mapping[str, Any]) -> str:
    if record["rounded_to_4bit"]:
        return (
            "The base was trained in 4 bits (NF4). Its quantised layers hold those rounded values,"
            " so that the model answers as it did in training; embeddings, norms and the head"
            " are those of the base, unrounded."
        )
    return "The base's weights were used as they are stored."


def _proof(proof: Mapping[str, Any]) -> str:
    text = ""
    if weights := proof.get("weights"):
        text = (
            f"{weights['adapted']} of {weights['tensors']} tensors were changed by the adapter, by"
            " the delta that peft computes. The files were read again from the disk and are what"
            " was written."
        )
    if logits := proof.get("logits"):
        text += (
            f" Logits over {logits['tokens']} tokens beside those of base and adapter: largest"
            f" difference {logits['max_difference']:.2g}, most likely token the same at"
            f" {100 * logits['agreement']:.4g}%."
        )
    return text


def _shown(name: str) -> str:
    return f"`{Path(name).name}`" if is_local(name) else f"[{name}](https://huggingface.co/{name})"


def _table(rows: Mapping[str, Any]) -> str:
    if not rows:
        return "Not known."
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in rows.items())]
    )


def _cell(value: Any) -> str:
    """A value that does not break its row: module names may be a regular expression."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
