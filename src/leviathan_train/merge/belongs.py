"""Whether an adapter was trained on a base model.

Nothing here imports torch: of a weight file the header is read, and samples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from leviathan_train.config.base_model import base_facts, has_fingerprint, is_local, same_base
from leviathan_train.errors import UsageError
from leviathan_train.merge.adapters import PREFIX, WEIGHTS, Adapter
from leviathan_train.merge.base import find_base, weight_files
from leviathan_train.system.files import read_object
from leviathan_train.system.safetensors import Entry, HeaderError, read_header


def check_belongs(adapter: Adapter, base: Path, base_name: str) -> None:
    """Check that the adapter was trained on this base model.

    By the names and shapes of its tensors; by what the seal tells of the base; and, if both
    models are here, by samples of their weights.

    Raises:
        UsageError: it was not, with what tells so.
    """
    trained = base_of(adapter.path) or base_name
    hint = (
        f"It was trained on {trained}. Name that as base_model in a config:  leviathan merge CONFIG"
    )
    if why := _misfit(adapter.path, base):
        raise UsageError(f"{adapter.label} does not fit the base model {base_name}: {why}.", hint)
    inputs = adapter.seal.trainer.get("inputs") if adapter.seal else None
    known, here = (inputs or {}).get("base") or {}, base_facts(str(base))
    if same_base(known, here) is False:
        raise UsageError(f"{base_name} is not the model that {adapter.label} was trained on.", hint)
    if has_fingerprint(known) or trained == base_name or not is_local(trained):
        return
    try:
        other = find_base(trained, adapter.run)
    except UsageError:
        return  # moved away, or never here: what can be compared was
    if same_base(base_facts(str(other)), here) is False:
        raise UsageError(
            f"{adapter.label} was trained on {trained}, whose weights are not those of"
            f" {base_name}.",
            hint,
        )


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a model, from the headers of its files.

    Raises:
        UsageError: a file is damaged.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        try:
            shapes |= {name: entry.shape for name, entry in read_header(file).items()}
        except HeaderError as error:
            raise UsageError(f"{file} {error}.", "Fetch the model again.") from None
    return shapes


def _misfit(adapter: Path, base: Path) -> str:
    """The first layer of an adapter that the base lacks or has in another shape; else empty."""
    shapes, header = shapes_of(base), read_header(adapter / WEIGHTS)
    layers = [
        name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        for name in header
        if name.endswith(".lora_A.weight")
    ]
    known = [layer for layer in layers if f"{layer}.weight" in shapes]
    # Names in memory may differ from those on disk, but not from one numbered layer to the next.
    kinds = {re.sub(r"\.\d+\.", ".N.", layer) for layer in known}
    for layer in layers:
        if f"{layer}.weight" not in shapes and re.sub(r"\.\d+\.", ".N.", layer) in kinds:
            return f"it has no {layer}"
    for layer in known:
        wanted = _adapted_shape(header, layer)
        weight = shapes[f"{layer}.weight"]
        if wanted and len(weight) == 2 and weight not in (wanted, wanted[::-1]):
            return f"{layer} is {list(weight)} in the base and {list(wanted)} in the adapter"
    return ""


def _adapted_shape(header: Mapping[str, Entry], layer: str) -> tuple[int, int] | None:
    a, b = (header.get(f"{PREFIX}{layer}.lora_{part}.weight") for part in "AB")
    if a is None or b is None or len(a.shape) != 2:
        return None
    return (b.shape[0], a.shape[1])


def base_of(path: Path) -> str | None:
    """The base model that an adapter folder names."""
    name = read_object(path / "adapter_config.json").get("base_model_name_or_path")
    return str(name) if name else None
