"""What another version of Axolotl or of a library changes at a resume."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from leviathan_train import __version__
from leviathan_train.config.effects import Effect

_AXOLOTL: Mapping[tuple[int, int], str] = {
    (0, 20): (
        "from 0.20 on, packed rows are packed again in each epoch with several processes, and"
        " FSDP version 1 is refused"
    ),
    (0, 21): (
        "from 0.21 on, gradient accumulation averages the loss over tokens instead of"
        " micro-batches, fsdp_version is 2 by default, and the rows are prepared again (the same"
        " rows in the same order)"
    ),
}
"""What changed for a resume with a minor version. The loss and the rows were seen when a run of
0.19 was resumed with 0.21; the rest is from the source."""

_TIED_HEADS = (
    "from peft 0.21 on, a LoRA on a tied head shares the weights of that on the embedding, so"
    " the optimizer's state may not fit"
)

Version = tuple[int, int]


def installed(libraries: Iterable[str]) -> dict[str, str]:
    """Version of this package and of each library, by name."""
    found = {name: importlib.metadata.version(name) for name in libraries}
    return {"leviathan": __version__} | found


def changed(
    old: Mapping[str, str], settings: Mapping[str, Any]
) -> Iterator[tuple[str, str, str, Effect, str]]:
    """Name, old and new version, effect and why of each package that is of another version now.

    Args:
        old: version by package, as a seal has them.
        settings: of the config that made the checkpoint.
    """
    for name, before in old.items():
        try:
            now = importlib.metadata.version(name) if name != "leviathan" else before
        except importlib.metadata.PackageNotFoundError:
            continue
        if now != before:
            yield name, before, now, *_judged(name, _minor(before), _minor(now), settings)


def _judged(
    name: str, old: Version, new: Version, settings: Mapping[str, Any]
) -> tuple[Effect, str]:
    if name == "axolotl" and old != new:
        low, high = sorted((old, new))
        told = [text for version, text in _AXOLOTL.items() if low < version <= high]
        known = high <= max(_AXOLOTL)
        return Effect.ASKED, "; ".join(told) if known and told else "what it changes is not known"
    if name == "peft" and (old < (0, 21)) != (new < (0, 21)) and _adapts_head(settings):
        return Effect.ASKED, _TIED_HEADS
    if old[0] != new[0]:
        return Effect.ASKED, "the checkpoint was made by another major version"
    return Effect.NOTED, "the checkpoint was made by another version"


def _adapts_head(settings: Mapping[str, Any]) -> bool:
    """Whether the adapter has weights for the embedding or the head."""
    keys = ("lora_target_modules", "lora_modules_to_save")
    return any(re.search("lm_head|embed", str(settings.get(key))) for key in keys)


def _minor(version: str) -> Version:
    """The first two numbers of a version."""
    numbers = [int(part) for part in re.findall(r"\d+", version)[:2]] + [0, 0]
    return numbers[0], numbers[1]
