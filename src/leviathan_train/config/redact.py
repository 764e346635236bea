"""Keeping credentials out of every record and message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"
"""What stands in the place of a credential."""

_SECRET = re.compile(
    r"(token|secret|password|passwd|pwd|credential|auth|authorization|wandb_key"
    r"|(api|access|private|secret|storage|account)_?key(_id)?)s?$|^key$",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(r"(special|added|fix_untrained|lora)_?tokens$|^tokens$", re.IGNORECASE)


def redact(value: Any) -> Any:
    """`value` without any token, key or password in it."""
    if isinstance(value, Mapping):
        return {
            str(key): REDACTED if item and is_secret(str(key), item) else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if isinstance(value, str):
        value = re.sub(r"(://)[^/\s@]+@", rf"\1{REDACTED}@", value)
        value = re.sub(
            r"(?i)([?&][\w-]*(?:token|key|sig|signature|secret)=)[^&\s]+", rf"\1{REDACTED}", value
        )
        return re.sub(r"\b(hf_|sk-|ghp_|glpat-)[A-Za-z0-9_-]{16,}", REDACTED, value)
    return value


def quoted(key: str, value: Any) -> str:
    """The value of `key` as a message quotes it: not too long, without credentials."""
    value = redact({key: value})[key]
    text = "not set" if value is None else str(value)
    if isinstance(value, bool):
        text = text.lower()
    return text if len(text) <= 60 else text[:57] + "..."


def is_secret(key: str, value: Any = "x") -> bool:
    """Whether the value of `key` may be a credential."""
    if isinstance(value, bool | Mapping):
        return False
    if not isinstance(value, str) and re.search(r"tokens?$", key, re.IGNORECASE):
        return False  # of text
    return bool(_SECRET.search(key)) and not _NOT_SECRET.search(key)


def secrets(value: Any) -> set[str]:
    """Every credential in `value`, to be kept out of a text that quotes it."""
    if isinstance(value, Mapping):
        own = {str(item) for key, item in value.items() if item and is_secret(str(key), item)}
        return own.union(*map(secrets, value.values()))
    return set().union(*map(secrets, value)) if isinstance(value, list | tuple) else set()
