"""What an error that ends a training says of itself, in one line that names file and key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leviathan_train.errors import LeviathanError
from leviathan_train.run.records import Phase

_WRAPPERS = {"DatasetGenerationError", "DatasetGenerationCastError"}
"""Errors of datasets that say only that there was another one."""
_NO_ROW = (
    "no row is left to train on: those longer than sequence_len, and those without a token that"
    " counts for the loss, are dropped"
)


def told(error: BaseException, phase: Phase, cfg: Mapping[str, Any]) -> str:
    """The cause of a crash.

    Args:
        phase: what the trainer was doing.
        cfg: the config; it tells which files the error is about.
    """
    if isinstance(error, LeviathanError):
        return error.message
    if listed := _of_validation(error):
        return listed
    root = error
    while type(root).__name__ in _WRAPPERS and root.__cause__ is not None:
        root = root.__cause__
    if "num_samples=0" in str(root):  # torch's random sampler, without any row
        return _where(Phase.DATA, cfg) + _NO_ROW
    return _where(phase, cfg) + _message(root)


def _of_validation(error: BaseException) -> str:
    """Key and message of each of pydantic's errors; empty for any other error."""
    if type(error).__name__ != "ValidationError" or not hasattr(error, "errors"):
        return ""
    lines = dict.fromkeys(
        f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}".lstrip(": ")
        for one in error.errors()
    )
    return _one_line("; ".join(lines))


def _message(error: BaseException) -> str:
    """The error's own words; the name of its class where they are no sentence."""
    text = _one_line(str(error))
    if isinstance(error, KeyError):
        key = error.args[0] if error.args else ""
        is_sentence = isinstance(key, str) and len(key.split()) > 3
        return _one_line(key) if is_sentence else f"no column or key {text}"
    if isinstance(error, StopIteration):
        return "no row was left to read"
    return text if " " in text else f"{type(error).__name__}: {text}"


def _where(phase: Phase, cfg: Mapping[str, Any]) -> str:
    if phase is Phase.DATA:
        entries: Any = cfg.get("datasets")
        names = [_path(one) for one in entries] if isinstance(entries, list) else []
        return f"in datasets ({', '.join(names)}): " if names else ""
    if phase is Phase.MODEL:
        return f"loading base_model {cfg.get('base_model')}: "
    return ""


def _path(entry: Any) -> str:
    """The path of an entry, which is a model of pydantic's once Axolotl has validated it."""
    found = entry.get("path") if isinstance(entry, Mapping) else getattr(entry, "path", None)
    return str(found)


def _one_line(text: str) -> str:
    return " ".join(text.split())
