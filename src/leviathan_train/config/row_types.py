"""What each `type` of a data set wants its rows to be, and which type rows would fit.

Taken from the prompt strategies of axolotl 0.19 (prompt_strategies/, prompt_tokenizers.py,
utils/data/wrappers.py). A type that is not among them is not judged.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TOKENISED = frozenset({"input_ids", "attention_mask", "labels"})
"""Rows with these columns are taken as they are, whatever the type says."""

_ALPACA = ("instruction", "output")
_ORCA = ("system_prompt", "question", "response")

# The columns that the rows of a type must have. The last one is the answer: it must be text.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "alpaca": _ALPACA,
    "alpaca_chat": _ALPACA,
    "alpaca_chat.load_concise": _ALPACA,
    "alpaca_chat.load_no_prompt": _ALPACA,
    "alpaca_chat.load_qa": ("question", "answer"),
    "alpaca_chat.load_camel_ai": ("message_1", "message_2"),
    "alpaca_instruct": _ALPACA,
    "alpaca_instruct.load_no_prompt": _ALPACA,
    "alpaca_w_system": ("system", *_ALPACA),
    "alpaca_w_system.load_instruct": ("system", *_ALPACA),
    "alpaca_w_system.load_chat": ("system", *_ALPACA),
    "alpaca_w_system.load_open_orca": _ORCA,
    "alpaca_w_system.load_open_orca_chatml": _ORCA,
    "orcamini": _ORCA,
    "gpteacher": ("instruction", "response"),
    "oasst": ("INSTRUCTION", "RESPONSE"),
    "jeopardy": ("question", "category", "answer"),
    "summarizetldr": ("article", "summary"),
    "metharme": ("prompt", "generation"),
    "context_qa": ("article", "question", "answer"),
    "context_qa.load_v2": ("context", "question", "answer"),
    "creative_acr.load_answer": ("instruction", "revision"),
}
# Of these no column has to be text.
_LISTS: Mapping[str, tuple[str, ...]] = {
    "input_output": ("segments",),
    "pygmalion": ("conversations",),
    "reflection": ("instruction", "output", "reflection", "corrected"),
    "stepwise_supervised": ("prompt", "completions", "labels"),
    "explainchoice": ("question", "choices"),
    "concisechoice": ("question", "choices"),
}
_PAIRS = ("chosen", "rejected")
# The same of preference data; by `rl`, then the type (prompt_strategies/dpo, kto, orpo).
_PREFERENCES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "dpo": {
        "": ("prompt", *_PAIRS),
        "argilla_chat": _PAIRS,
        "icr": ("input", *_PAIRS),
        "intel": ("question", *_PAIRS),
        "prompt_pairs": ("prompt", *_PAIRS),
        "ultra": ("prompt", *_PAIRS),
    },
    "kto": {
        "argilla": ("instruction", "completion"),
        "argilla_chat": ("completion",),
        "intel": ("question", "completion"),
        "prompt_pairs": ("prompt", "completion"),
        "ultra": ("prompt", "completion"),
    },
}
_QUESTIONS = ("instruction", "question", "prompt", "input", "query", "user", "source")
_ANSWERS = ("output", "answer", "response", "completion", "target", "assistant", "label")
_FITTING = (
    "alpaca_w_system",
    "alpaca",
    "gpteacher",
    "alpaca_w_system.load_open_orca",
    "alpaca_chat.load_qa",
    "metharme",
    "oasst",
    "alpaca_chat.load_camel_ai",
    "summarizetldr",
)


@dataclass(frozen=True)
class Want:
    """What the rows of a data set must hold.

    Attributes:
        label: the type as the config writes it.
        columns: their names.
        answer: the column whose values must be text; None if there is none.
        role, content: of a chat, whose only column holds messages: the keys of a message.
    """

    label: str
    columns: tuple[str, ...]
    answer: str | None = None
    role: str | None = None
    content: str | None = None


def wanted(entry: Mapping[str, Any], values: Mapping[str, Any]) -> Want | None:
    """What an entry of `datasets` wants of its rows; None if that is not known.

    Args:
        values: the whole config.
    """
    kind, rl = entry.get("type"), values.get("rl")
    if values.get("skip_prepare_dataset"):
        return None
    if rl:
        return _preference(kind, str(rl))
    if isinstance(kind, Mapping):
        question = str(kind.get("field_instruction") or "instruction")
        answer = str(kind["field_output"]) if kind.get("field_output") else None
        columns = (question, answer) if answer else (question,)
        return Want("a format of your own", columns, answer)
    if not isinstance(kind, str):
        return None
    name = kind.removesuffix(".load")
    if name.partition(":")[0] == "alpaca":
        name = "alpaca"
    if name == "chat_template":
        return _chat(entry, kind)
    if name == "completion":
        field = str(entry.get("field") or "text")
        return Want(kind, (field,), field)
    if name in _COLUMNS:
        return Want(kind, _COLUMNS[name], _COLUMNS[name][-1])
    lists = _LISTS.get(name.partition(":")[0])
    return Want(kind, lists) if lists else None


def _chat(entry: Mapping[str, Any], kind: str) -> Want:
    mapping = entry.get("message_property_mappings") or {}
    role = str(mapping.get("role") or entry.get("message_field_role") or "role")
    content = str(mapping.get("content") or entry.get("message_field_content") or "content")
    return Want(kind, (str(entry.get("field_messages") or "messages"),), None, role, content)


def _preference(kind: Any, rl: str) -> Want | None:
    known = _PREFERENCES.get("dpo" if rl in {"dpo", "ipo", "simpo"} else rl, {})
    name = kind if isinstance(kind, str) else ""
    columns = known.get(name.rpartition(".")[2])
    if columns is None or isinstance(kind, Mapping) or name.startswith(("chat_template", "user_")):
        return None
    return Want(name or f"rl: {rl}", columns)


def fitting(columns: Collection[str], row: Mapping[str, Any]) -> str | None:
    """What to write into the config for rows with these columns; None if nothing is known to fit.

    Args:
        row: one of them.
    """
    if {"prompt", *_PAIRS} <= set(columns) or {"question", *_PAIRS} <= set(columns):
        return f"rl: dpo  and  type: {'chatml.intel' if 'question' in columns else 'chatml.ultra'}"
    if chat := next(_chats(row), None):
        return chat
    for name in _FITTING:
        if set(_COLUMNS[name]) <= set(columns):
            return f"type: {name}"
    texts = [name for name in columns if isinstance(row.get(name), str)]
    question = next((name for name in _QUESTIONS if name in texts), None)
    answer = next((name for name in _ANSWERS if name in texts and name != question), None)
    if question and answer:
        own = f'field_instruction: {question}, field_output: {answer}, format: "{{instruction}}\\n"'
        return f'type: {{{own}, no_input_format: "{{instruction}}\\n"}}'
    if "text" in texts:
        return "type: completion"
    return f"type: completion  and  field: {texts[0]}" if len(texts) == 1 else None


def _chats(row: Mapping[str, Any]) -> Iterator[str]:
    """How the columns that hold messages would be named."""
    for name, value in row.items():
        messages = messages_of(value)
        if not messages or not isinstance(messages[0], Mapping):
            continue
        for role, content in (("role", "content"), ("from", "value")):
            if {role, content} <= messages[0].keys():
                parts = ["type: chat_template"]
                if name != "messages":
                    parts.append(f"field_messages: {name}")
                if role != "role":
                    parts.append("message_property_mappings: {role: from, content: value}")
                yield "  and  ".join(parts)


def messages_of(value: Any) -> list[Any] | None:
    """The messages that a column holds, also as a text of JSON; None if it holds none."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else None
        except ValueError:
            return None
    return value if isinstance(value, list) else None
