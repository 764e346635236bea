"""What base and adapter are together: the base as training saw it, and on it peft's own delta.

Imported only by the merge's own process.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from transformers.utils import is_torch_bf16_gpu_available

from leviathan_train.errors import LeviathanError
from leviathan_train.jobs import merge_upstream as upstream
from leviathan_train.merge.adapters import PREFIX, WEIGHTS
from leviathan_train.merge.base import weight_files
from leviathan_train.merge.job import Job
from leviathan_train.system.safetensors import Entry, read_header

FORMATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""The number formats on disk that an adapter can be added to."""

_LORA = re.compile(r"\.(lora_|token_adapter|trainable_tokens).*")


class Weights:
    """The tensors of some safetensors files, read one at a time."""

    def __init__(self, files: list[Path]) -> None:
        self.file: dict[str, Path] = {}
        self.entry: dict[str, Entry] = {}
        for path in files:
            header = read_header(path)
            self.entry |= header
            self.file |= dict.fromkeys(header, path)

    @classmethod
    def of_model(cls, folder: str) -> Weights:
        return cls(weight_files(Path(folder)))

    @classmethod
    def of_adapter(cls, folder: str) -> Weights:
        return cls([Path(folder) / WEIGHTS])

    def bytes(self) -> int:
        return sum(entry.size for entry in self.entry.values())

    def tensor(self, key: str) -> Any:
        """A tensor of a format that can be computed with; it is the caller's own."""
        entry = self.entry[key]
        # Not by the library: what it maps stays in memory until the file is done with.
        content = bytearray(entry.size)
        with self.file[key].open("rb", buffering=0) as stream:
            stream.seek(entry.start)
            view, done = memoryview(content), 0
            while done < entry.size:
                done += stream.readinto(view[done:]) or 0
        return torch.frombuffer(content, dtype=FORMATS[entry.dtype]).reshape(entry.shape)


class Reference:
    """The tensors of base and adapter together, one at a time, in 32 bits.

    Attributes:
        base: what is on disk.
        embeddings: names in memory of the weights with a row for each token.
        changed: names in memory of the tensors that the adapter changes.
        touched: those, and what training rounded to 4 bits; all others stay as they are.
        dtype: the number format that training loaded the base in.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.base = job, Weights.of_model(job.base)
        auto = "bfloat16" if is_torch_bf16_gpu_available() else "float32"
        self.dtype = getattr(torch, auto if job.dtype == "auto" else job.dtype)
        self._brought = {  # a tensor brought whole may have more rows than the base's
            key.removeprefix(PREFIX): entry.shape
            for key, entry in Weights.of_adapter(job.adapter).entry.items()
        }
        skeleton = find_skeleton(job, self._brought)
        self.tied = upstream.tied_weights(skeleton)
        self.embeddings = upstream.embedding_names(skeleton)
        self._rounded = find_rounded(job, skeleton) if job.quantised else set()
        self.conversion = upstream.Conversion(skeleton, list(self.base.entry))
        self._key = {name: key for key, name in self.conversion.name.items()}
        self._group = self._groups()
        self._made: tuple[str, dict[str, Any]] = ("", {})
        rows = {
            shape[0]
            for name, shape in self._brought.items()
            if upstream.base_name(name) in self.embeddings
        }
        if rows:
            upstream.resize(skeleton, max(rows))
        self._adapted = upstream.Adapted(skeleton, Path(job.adapter))
        self.changed = self._adapted.layers.keys() | self._adapted.whole.keys()
        self.touched = self.changed | self._rounded
        self._check_fit()

    def _groups(self) -> dict[str, str]:
        """The group of each tensor in memory that is not on disk as it is."""
        self._members: dict[str, set[str]] = {}
        for first, keys in self.conversion.groups.items():
            parts = {key: torch.empty(self.base.entry[key].shape, device="meta") for key in keys}
            self._members[first] = set(self.conversion.load(first, parts))
        return {name: first for first, names in self._members.items() for name in names}

    def _check_fit(self) -> None:
        for key in (*self._adapted.unexpected, *self._adapted.missing):
            name = key.removeprefix(PREFIX).replace(".default", "")
            plain = upstream.base_name(name)
            if plain != name and plain in self._brought:
                continue  # peft saves twice what belongs to a vocabulary that grew
            what = "holds" if key in self._adapted.unexpected else "lacks"
            raise LeviathanError(
                f"The adapter {what} {name}, which does not fit the base.",
                "Is the base_model of the config the one that it was trained on?",
            )
        for name in self.changed:
            group = self._group.get(name)
            for key in self.conversion.groups[group] if group else [self._on_disk(name)]:
                if self.base.entry[key].dtype not in FORMATS:
                    raise LeviathanError(
                        f"{key} is stored as {self.base.entry[key].dtype}: no adapter can be"
                        " added to it exactly.",
                        "Name the unquantised model as base_model in a config:"
                        "  leviathan merge CONFIG",
                    )

    def holds(self, name: str) -> bool:
        """Whether the base's files hold the tensor `name` itself."""
        return name in self._key or name in self._group

    def _on_disk(self, name: str) -> str:
        """The key on disk of a tensor that is there as it is, or as the one it is tied to."""
        for found in (name, self.tied.get(name, "")):
            if found in self._key:
                return self._key[found]
        raise LeviathanError(
            f"The adapter changes {name}, which the base's files do not hold.",
            "Is the base_model of the config the one that it was trained on?",
        )

    def untied(self) -> dict[str, str]:
        """Tensors that were tied to another, and differ from it now: copy to source."""
        return {
            copy: source
            for copy, source in self.tied.items()
            if {copy, source} & self.changed
            and not torch.equal(self.tensor(copy), self.tensor(source))
        }

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor on disk as it will be: a vocabulary may have grown."""
        whole = self._adapted.whole.get(self.conversion.name[key])
        return self.base.entry[key].shape if whole is None else tuple(whole.shape)

    def rows(self, untied: Collection[str]) -> dict[str, tuple[int, int]]:
        """Of each weight with a row for each token: how many it had, and will have.

        Args:
            untied: see `untied`; what is still tied is left out.
        """
        found = {}
        for name in self.embeddings:
            if self.holds(name) or name in untied:
                key, whole = self._on_disk(name), self._adapted.whole.get(name)
                before = self.base.entry[key].shape[0]
                found[name] = before, before if whole is None else whole.shape[0]
        return found

    def is_touched(self, key: str) -> bool:
        """Whether a tensor on disk changes at all."""
        name = self.conversion.name[key]
        return bool(self._names(name) & self.touched)

    def is_changed(self, key: str) -> bool:
        """Whether the adapter changes a tensor on disk."""
        return bool(self._names(self.conversion.name[key]) & self.changed)

    def _names(self, first: str) -> set[str]:
        return self._members.get(first, {first})

    def on_disk(self, key: str) -> Any:
        """A tensor by its key on disk, in 32 bits.

        Raises:
            LeviathanError: transformers cannot take apart again what it put together.
        """
        first = self.conversion.name[key]
        if first not in self.conversion.groups:
            return self.tensor(first)
        if self._made[0] != first:  # its parts follow one another
            whole = {name: self.tensor(name) for name in self._names(first)}
            self._made = first, self.conversion.save(whole)
        made = self._made[1]
        if key not in made or tuple(made[key].shape) != self.base.entry[key].shape:
            raise LeviathanError(
                f"transformers cannot write {first} in the parts of the base's files.",
                "Merge it with Axolotl:  python -m axolotl.cli.merge_lora CONFIG",
            )
        return made[key]

    def tensor(self, name: str) -> Any:
        """The tensor `name` in memory as base and adapter make it."""
        if name not in self._adapted.layers:
            return self.before(name).float()
        path = name.rpartition(".")[0]
        before = {
            part: self.before(f"{path}.{part}").to(torch.float32, copy=True)
            for part in self._adapted.parts(name)
        }
        return self._adapted.merged(name, before)

    def before(self, name: str) -> Any:
        """The tensor without LoRA: brought whole by the adapter, or the base's as trained on."""
        if name in self._adapted.whole:
            return self._adapted.whole[name]
        if name in self._group:
            first = self._group[name]
            keys = self.conversion.groups[first]
            parts = {key: self.base.tensor(key) for key in keys}
            weight = self.conversion.load(first, parts)[name]
        else:
            weight = self.base.tensor(self._on_disk(name))
        if name not in self._rounded:
            return weight
        return upstream.rounded(weight.to(self.dtype), double_quant=self.job.double_quant)


def find_skeleton(job: Job, brought: Collection[str]) -> Any:
    """The architecture in which the layers of what the adapter brings are found."""
    layers = {_LORA.sub("", upstream.base_name(name)) for name in brought}
    best, most = None, -1
    for skeleton in upstream.skeletons(Path(job.base), trust_remote_code=job.trust_remote_code):
        names = skeleton.state_dict().keys() | {name for name, _ in skeleton.named_modules()}
        if len(layers & names) > most:
            best, most = skeleton, len(layers & names)
        if most == len(layers):
            break
    if best is None:
        raise LeviathanError(
            f"transformers does not know the architecture of {job.base}.",
            "If the model brings its own code, set trust_remote_code: true in the config.",
        )
    return best


def find_rounded(job: Job, skeleton: Any) -> set[str]:
    """Names in memory of the weights that training rounded to 4 bits."""
    tied = upstream.tied_weights(skeleton)
    names = upstream.rounded_weights(skeleton, job.skip_modules) - tied.keys()
    if job.quantise_experts:  # axolotl, monkeypatch/moe_quant.py
        names |= {
            name
            for name, value in skeleton.state_dict().items()
            if value.ndim >= 3 and "expert" in name.lower()
        }
    return names
