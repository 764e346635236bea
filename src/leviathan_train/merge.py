"""The merge's own process: Axolotl merges, this puts right what it spoils, and proves it.

    python -m leviathan_train.merge <job.json>

Progress and result are JSON lines on stdout; all else goes to stderr, the log. Line
references are to axolotl 0.19, peft 0.20 and transformers 5.16.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from leviathan_train import __version__
from leviathan_train.errors import LeviathanError
from leviathan_train.files import read_json, write_json
from leviathan_train.merging import Job, Progress, read_header, weight_files

PREFIX = "base_model.model."
LIBRARIES = ("axolotl", "transformers", "peft", "torch", "safetensors")

SAMPLED_ABOVE = 2 << 30
"""Bytes of base above which the proof takes samples."""
SAMPLES = 24
"""Tensors of each kind that the proof of a large model looks at."""

PROMPTS = (
    "The harbour lay quiet under the morning fog.",
    "### Instruction:\nWhat is 17 + 25?\n\n### Response:\n",
    "def fibonacci(n):\n    return n if n < 2 else",
    "Once upon a time, in a village by the sea, there lived",
)

Event = Callable[..., None]

_PR_SET_PDEATHSIG = 1
# What Axolotl's merge takes from an adapter (cli/utils/lora_merge.py:222, :593, :1301).
_FOLDED = re.compile(r"\.lora_[AB]\.weight$|\.lora_magnitude_vector$")
_KNOWN = re.compile(
    r"\.lora_[AB]\.(weight|bias)$|\.lora_embedding_[AB]$|\.lora_magnitude_vector(\.weight)?$"
)


class Weights:
    """The tensors of a model's folder, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Path] = {}
        self.meta: dict[str, dict[str, Any]] = {}
        self._loaded: tuple[Path, Mapping[str, Any]] | None = None
        for file in weight_files(folder):
            if file.suffix == ".safetensors":
                header = read_header(file)
                self.meta |= header
                self.files |= dict.fromkeys(header, file)
            else:
                self.files |= dict.fromkeys(self._archive(file), file)

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def names(self) -> list[str]:
        return sorted(self.files)

    def bytes(self) -> int:
        return sum(file.stat().st_size for file in set(self.files.values()))

    def tensor(self, name: str) -> Any:
        """One tensor, read from disk."""
        file = self.files[name]
        if file.suffix != ".safetensors":
            return self._archive(file)[name]
        from safetensors import safe_open

        with safe_open(file, framework="pt", device="cpu") as stream:
            return stream.get_tensor(name)

    def _archive(self, file: Path) -> Mapping[str, Any]:
        import torch

        if self._loaded is None or self._loaded[0] != file:
            tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            self._loaded = (file, tensors)
        return self._loaded[1]


class Skeleton:
    """The base's architecture without its weights: names, and what training rounds to 4 bits."""

    def __init__(self, job: Job) -> None:
        from axolotl.cli.utils import lora_merge

        base = Path(job.base)
        self.model = lora_merge._build_meta_model(base, trust_remote_code=job.trust_remote_code)
        if self.model is None:
            raise LeviathanError(
                f"transformers does not know the architecture of {base}.",
                "Set trust_remote_code: true in the config if the model brings its own code.",
            )
        renamings, converters = lora_merge._get_conversion_info(
            base, trust_remote_code=job.trust_remote_code, meta_model=self.model
        )
        self._renamings = renamings
        self.fuses = bool(converters)
        names = self.model.state_dict().keys() | dict(self.model.named_parameters()).keys()
        self.names: set[str] = set(names)
        self.tied: dict[str, str] = dict(getattr(self.model, "all_tied_weights_keys", None) or {})
        self.names |= self.tied.keys()
        self.dtype = _dtype(job.dtype)
        self.rounded: set[str] = self._rounded(job) if job.quantised else set()

    def name_of(self, key: str) -> str | None:
        """The name in memory of a tensor on disk; None if several become one there."""
        from axolotl.cli.utils.lora_merge import _renamed_key_candidates

        candidates = [key, *_renamed_key_candidates(key, self._renamings)]
        return next((name for name in candidates if name in self.names), None)

    def _rounded(self, job: Job) -> set[str]:
        """The weights of the layers that transformers loads in 4 bits, as it picks them."""
        from torch.nn import Linear
        from transformers.pytorch_utils import Conv1D
        from transformers.quantizers.base import HfQuantizer
        from transformers.quantizers.quantizers_utils import should_convert_module

        skip = job.skip_modules
        if skip is None and self.model.config.model_type == "falcon_h1":
            skip = ["out_proj"]  # axolotl loaders/model.py:821
        keep = HfQuantizer.get_modules_to_not_convert(
            self.model, skip, self.model._keep_in_fp32_modules
        )
        # As in transformers integrations/bitsandbytes.py, replace_with_bnb_linear.
        return {
            f"{name}.weight"
            for name, module in self.model.named_modules()
            if type(module) in (Linear, Conv1D) and should_convert_module(name, keep)
        }


def _dtype(name: str) -> Any:
    import torch
    from transformers.utils import is_torch_bf16_gpu_available

    if name == "auto":  # as Axolotl decides where the config does not
        name = "bfloat16" if is_torch_bf16_gpu_available() else "float32"
    return getattr(torch, name)


def round_to_4bit(weight: Any, dtype: Any, double_quant: bool) -> Any:
    """A weight as training saw it: rounded to NF4 by bitsandbytes and back, in its own format."""
    import bitsandbytes
    import torch
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    device = "cuda" if torch.cuda.is_available() else "cpu"
    quantised = bitsandbytes.nn.Params4bit(
        weight.to(dtype).contiguous(),
        requires_grad=False,
        quant_type="nf4",
        compress_statistics=double_quant,
    ).to(device)
    return dequantize_bnb_weight(quantised).to("cpu", weight.dtype)


class Reference:
    """What peft makes of base and adapter, one tensor at a time, in 32 bits.

    The model's own weights are stand-ins of no size; a layer gets its real one when it is
    its turn.
    """

    def __init__(self, job: Job, skeleton: Skeleton, base: Weights) -> None:
        import torch
        from peft import PeftModel
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.job, self.skeleton, self.base = job, skeleton, base
        self.on_disk = {skeleton.name_of(key): key for key in base.names()}
        model = skeleton.model
        for module in model.modules():
            for name, value in list(module._parameters.items()):
                if value is not None:
                    stand_in = torch.zeros(1).expand(_shape(job, name, module, value))
                    module._parameters[name] = torch.nn.Parameter(stand_in, requires_grad=False)
        self.peft = PeftModel.from_pretrained(model, job.adapter, low_cpu_mem_usage=True)
        self.layers: dict[str, Any] = {}
        self.given: dict[str, Any] = {}
        for name, module in self.peft.base_model.model.named_modules():
            if isinstance(module, BaseTunerLayer):
                self.layers.setdefault(name, module)
        for name, value in self.peft.base_model.model.named_parameters(remove_duplicate=False):
            if not _is_stand_in(value) and ".lora_" not in name:
                plain = name.replace(".modules_to_save.default", "").replace(".base_layer", "")
                self.given[plain] = value.detach()

    def changed(self) -> set[str]:
        """Names of the tensors that the adapter changes."""
        names = set(self.given)
        for path, layer in self.layers.items():
            names.add(f"{path}.weight")
            if any(layer.lora_bias.values()):
                names.add(f"{path}.bias")
        return names

    def tensor(self, name: str) -> Any:
        """The tensor `name` of base and adapter together.

        Raises:
            KeyError: the base has no such tensor.
        """
        import torch

        path, _, kind = name.rpartition(".")
        layer = self.layers.get(path)
        if layer is None:
            return self.given[name].float() if name in self.given else self._of_base(name).float()
        inner = layer.get_base_layer()
        before = dict(inner._parameters)
        for part, value in before.items():
            if value is not None:
                full = f"{path}.{part}"
                real = self.given[full] if full in self.given else self._of_base(full)
                real = real.to(torch.float32, copy=True)  # merged in place
                inner._parameters[part] = torch.nn.Parameter(real, requires_grad=False)
        try:
            layer.merge(adapter_names=["default"])
            return inner._parameters[kind].detach()
        finally:
            layer.merged_adapters.clear()
            inner._parameters.update(before)

    def _of_base(self, name: str) -> Any:
        key = self.on_disk.get(name) or self.on_disk[self.skeleton.tied[name]]
        weight = self.base.tensor(key)
        if name in self.skeleton.rounded:
            return round_to_4bit(weight, self.skeleton.dtype, self.job.double_quant)
        return weight


def _is_stand_in(value: Any) -> bool:
    return bool(value.untyped_storage().nbytes() < value.numel() * value.element_size())


def _shape(job: Job, name: str, module: Any, value: Any) -> Any:
    """The shape of a parameter; of embeddings and head as many rows as the adapter brings."""
    import torch

    rows = _new_rows(job)
    wide = isinstance(module, torch.nn.Embedding) or (
        isinstance(module, torch.nn.Linear) and value.shape[0] == rows[1]
    )
    if rows[0] and name == "weight" and wide and value.shape[0] == rows[1]:
        return (rows[0], *value.shape[1:])
    return value.shape


def _new_rows(job: Job) -> tuple[int, int]:
    """Rows of the vocabulary in the adapter, if it brings them whole, and in the base."""
    config = read_json(Path(job.base) / "config.json") or {}
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    old = int(text.get("vocab_size") or 0)
    for name, entry in _adapter_header(job).items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")) and ".lora_" not in name:
            rows = int(entry["shape"][0])
            return (rows if rows != old else 0, old)
    return (0, old)


def _adapter_header(job: Job) -> dict[str, Any]:
    return read_header(Path(job.adapter) / "adapter_model.safetensors")


@dataclass
class Merge:
    """One merge, from the base's shards to a model that is proven.

    Args:
        tell: sends an event to the command line.
    """

    job: Job
    tell: Event
    mended: list[str] = field(default_factory=list)
    unties: bool = False

    def __post_init__(self) -> None:
        self.base = Weights(Path(self.job.base))
        self.out = Path(self.job.out)

    def run(self) -> dict[str, Any]:
        """Merge, mend, prove; the result as it is told to the command line."""
        self._progress("loading")
        self.skeleton = Skeleton(self.job)
        check_finite(self.job)
        self.todo = self._what_axolotl_misses()
        self._merge_by_axolotl()
        self._rename_archives()
        if self.todo or self.unties:
            self._mend()
        self._files_beside()
        for file in weight_files(self.out):
            self.tell("file", name=file.name)
        proof: dict[str, Any] = {}
        if self.job.prove != "none":
            proof["weights"] = self._prove_weights()
        if self.job.prove == "logits":
            proof["logits"] = prove_logits(self.job, self.skeleton, self._progress)
        versions = {"leviathan": __version__}
        versions |= {name: importlib.metadata.version(name) for name in LIBRARIES}
        return {"proof": proof, "mended": self.mended, "versions": versions}

    def _progress(self, phase: str, done: int = 0, total: int = 0, detail: str = "") -> None:
        self.tell("progress", progress=asdict(Progress(phase, done, total, detail)))

    def _what_axolotl_misses(self) -> set[str]:
        """Names (in memory) that the adapter changes and Axolotl's merge would not, or wrongly.

        It merges LoRA into, and puts a whole weight in place of, a tensor that the base has
        on disk. A head that is tied to the embedding is not there; biases and LoRA of
        embeddings it passes over.

        Raises:
            LeviathanError: the adapter holds what cannot be merged.
        """
        on_disk = {self.skeleton.name_of(key) for key in self.base.names()}
        tied = self.skeleton.tied.keys() | set(self.skeleton.tied.values())
        missed = set()
        for key in _adapter_header(self.job):
            name = key.removeprefix(PREFIX)
            module = re.sub(r"\.(lora_|modules_to_save\.|base_layer\.).*$", "", name)
            if ".lora_" in name and not _KNOWN.search(name):
                raise LeviathanError(f"The adapter holds {name}, which cannot be merged.")
            if ".base_layer." in name:
                continue
            if _FOLDED.search(name):
                weight = f"{module}.weight"
            elif ".lora_" in name:
                missed.add(f"{module}.{'bias' if name.endswith('.bias') else 'weight'}")
                continue
            else:
                weight = name if module == name else f"{module}.{name.rpartition('.')[2]}"
                if weight not in self.skeleton.names:
                    raise LeviathanError(f"The adapter holds {name}, which cannot be merged.")
            folded = weight.endswith(".weight") and (weight in on_disk or self.skeleton.fuses)
            if not folded or weight in tied - on_disk:
                missed.add(weight)
            self.unties |= weight in tied
        return missed

    def _merge_by_axolotl(self) -> None:
        """Axolotl's merge, shard by shard, rounding only what training rounds.

        Its default rounds every tensor of two dimensions (cli/utils/lora_merge.py:1375),
        embeddings and head too, which training does not; and it rounds from the format on
        disk, where training rounds what it has loaded.
        """
        from axolotl.cli.utils import lora_merge

        skeleton, rounds = self.skeleton, lora_merge._should_nf4_roundtrip
        by_axolotl, asked = lora_merge._simulate_nf4_roundtrip, []

        def should_round(key: str, tensor: Any, simulate_nf4: bool, experts: bool) -> bool:
            asked.append(key)
            rounded = simulate_nf4 and skeleton.name_of(key) in skeleton.rounded
            return rounded or rounds(key, tensor, False, experts)

        def round_loaded(tensor: Any, **kwargs: Any) -> Any:
            return by_axolotl(tensor.to(skeleton.dtype), **kwargs).to(tensor.dtype)

        def counted(shards: list[Path], **_: Any) -> Iterator[Path]:
            for number, shard in enumerate(shards):
                self._progress("merging", number, len(shards), shard.name)
                yield shard
            self._progress("merging", len(shards), len(shards))

        lora_merge._should_nf4_roundtrip = should_round
        lora_merge._simulate_nf4_roundtrip = round_loaded
        lora_merge.tqdm = counted
        lora_merge.merge_lora_sharded_efficient(
            base_model_path=self.base.folder,
            lora_adapter_path=self.job.adapter,
            output_path=self.out,
            device=_device(),
            simulate_nf4=self.job.quantised,
            simulate_nf4_experts=self.job.quantise_experts,
            nf4_double_quant=self.job.double_quant,
            trust_remote_code=self.job.trust_remote_code,
        )
        if self.job.quantised and not asked:
            raise LeviathanError(
                f"Axolotl {importlib.metadata.version('axolotl')} merges in a way unknown here.",
                "Install the version that leviathan-train names:  pip install leviathan-train",
            )

    def _rename_archives(self) -> None:
        """Axolotl keeps the name of a .bin, by which transformers does not find it."""
        found = sorted(self.out.glob("pytorch_model*.safetensors"))
        renamed = {file.name: file.name.replace("pytorch_model", "model") for file in found}
        for file in found:
            file.rename(self.out / renamed[file.name])
        if renamed and (self.out / _INDEX).exists():
            index = read_json(self.out / _INDEX)
            index["weight_map"] = {
                key: renamed.get(name, name) for key, name in index["weight_map"].items()
            }
            write_json(self.out / _INDEX, index)

    def _mend(self) -> None:
        """Put in place what peft makes of the tensors that Axolotl misses."""
        import torch

        reference = Reference(self.job, self.skeleton, self.base)
        added: dict[str, Any] = {}
        for copy, source in self.skeleton.tied.items():
            if not {copy, source} & reference.changed():
                continue
            if torch.equal(reference.tensor(copy), reference.tensor(source)):
                self.todo.discard(copy)
            else:  # they were one tensor, and are two now
                self.todo.add(copy)
        for name in sorted(self.todo):
            key = reference.on_disk.get(name)
            value = reference.tensor(name)
            if key is None:
                twin = reference.on_disk[self.skeleton.tied[name]]
                added[name] = value.to(self.base.tensor(twin).dtype).contiguous()
            else:
                overwrite(Weights(self.out).files[key], key, value)
            self.mended.append(key or name)
        if added:
            add_shard(self.out, added)
            _edit_config(self.out, tie_word_embeddings=False)
        del reference
        gc.collect()
        self.skeleton = Skeleton(self.job)

    def _files_beside(self) -> None:
        """The tokenizer that the model was trained with; Axolotl takes the base's.

        The base's own card and model code's leftovers do not describe this model.
        """
        adapter = Path(self.job.adapter)
        names = re.compile(
            r"(tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt"
            r"|chat_template.*|.*processor_config\.json)$"
        )
        copied = [file for file in adapter.iterdir() if names.match(file.name) and file.is_file()]
        for file in copied:
            (self.out / file.name).write_bytes(file.read_bytes())
        for name in ("README.md", "adapter_config.json"):
            (self.out / name).unlink(missing_ok=True)
        _let_it_stop(self.out)

    def _prove_weights(self) -> dict[str, Any]:
        """Re-read the merged tensors and compare them with what peft makes of base and adapter.

        Raises:
            LeviathanError: they differ.
        """
        out, reference = Weights(self.out), Reference(self.job, self.skeleton, self.base)
        changed = reference.changed()
        extra = set(out.names()) - set(self.base.names()) - set(self.mended)
        missing = set(self.base.names()) - set(out.names())
        if extra or missing:
            _wrong(f"{sorted(extra | missing)[0]} is {'added' if extra else 'missing'}")
        names = {key: self.skeleton.name_of(key) for key in out.names()}
        reached = set(names.values()) | (self.skeleton.tied.keys() - set(self.mended))
        lost = sorted(changed - reached)
        if lost and not self.skeleton.fuses:
            _wrong(f"the adapter's {lost[0]} is not in it")
        keys = [key for key, name in names.items() if name is not None]
        chosen = keys if self.base.bytes() <= SAMPLED_ABOVE else self._sample(keys, names, changed)
        largest, bytes_read = 0.0, 0
        for number, key in enumerate(chosen):
            self._progress("proving", number, len(chosen), key)
            got, wanted = out.tensor(key), reference.tensor(str(names[key]))
            if key in self.base:
                dtype = self.base.tensor(key).dtype
                if got.dtype != dtype:
                    _wrong(f"{key} is {got.dtype} instead of {dtype}")
            largest = max(largest, compare(key, got, wanted, exact=names[key] not in changed))
            bytes_read += got.numel() * got.element_size()
        if not any(self.out.glob("tokenizer*")):
            _wrong("the tokenizer is missing")
        self._progress("proving", len(chosen), len(chosen))
        return {
            "tensors": len(names),
            "compared": len(chosen),
            "adapted": len(changed),
            "adapted_compared": sum(names[key] in changed for key in chosen),
            "not_comparable": len(names) - len(keys),
            "bytes_compared": bytes_read,
            "max_difference": largest,
        }

    def _sample(
        self, keys: list[str], names: Mapping[str, str | None], changed: set[str]
    ) -> list[str]:
        """Some tensors of each kind, evenly spread, and all that stand outside of the layers."""
        kinds: dict[tuple[bool, bool, bool], list[str]] = {}
        for key in keys:
            name = names[key]
            kind = (name in changed, name in self.skeleton.rounded, not re.search(r"\.\d+\.", key))
            kinds.setdefault(kind, []).append(key)
        chosen: list[str] = []
        for (_, _, outside), found in kinds.items():
            count = len(found) if outside else min(SAMPLES, len(found))
            chosen += [found[part * (len(found) - 1) // max(1, count - 1)] for part in range(count)]
        return sorted(set(chosen))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _wrong(what: str) -> None:
    raise LeviathanError(
        f"The merged model is not base and adapter: {what}. It was thrown away.",
        "Please report it. To have it all the same:  --prove none",
    )


def compare(key: str, got: Any, wanted: Any, *, exact: bool) -> float:
    """The largest difference of two tensors.

    Args:
        got: as written.
        wanted: in 32 bits.
        exact: whether they must be equal; else they may differ by roundings of their format.

    Raises:
        LeviathanError: they differ by more, or in shape, or are no numbers.
    """
    import torch

    if got.shape != wanted.shape:
        _wrong(f"{key} has the shape {list(got.shape)} instead of {list(wanted.shape)}")
    difference = (got.float() - wanted).abs()
    largest = float(difference.max()) if difference.numel() else 0.0
    if exact:
        if not torch.equal(got.float(), wanted):
            _wrong(f"{key}, which is not adapted, differs by {largest:.3g}")
        return largest
    eps = torch.finfo(got.dtype).eps
    allowed = 2 * eps * wanted.abs() + 4 * max(eps / 64, 1e-6) * wanted.abs().max()
    if not bool((difference <= allowed).all()):
        _wrong(f"{key} differs by {largest:.3g}")
    return largest


def check_finite(job: Job) -> None:
    """Check that the adapter holds numbers.

    Raises:
        LeviathanError: it holds NaN or infinity.
    """
    import torch

    weights = Weights(Path(job.adapter))
    weights.files = dict.fromkeys(
        _adapter_header(job), Path(job.adapter) / "adapter_model.safetensors"
    )
    for name in weights.files:
        if not bool(torch.isfinite(weights.tensor(name)).all()):
            raise LeviathanError(
                f"The adapter holds NaN or infinity in {name}: its training diverged.",
                "Merge an earlier checkpoint:  --checkpoint STEP",
            )


_INDEX = "model.safetensors.index.json"


def overwrite(file: Path, key: str, value: Any) -> None:
    """Put a tensor in place of one of the same shape in a safetensors file."""
    import torch

    header = read_header(file)
    entry = header[key]
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
    if entry["shape"] != list(value.shape) or entry["dtype"] not in names:
        raise LeviathanError(
            f"{key} is {entry['shape']} in the base and {list(value.shape)} with the adapter,"
            " which cannot be merged."
        )
    data = value.to(getattr(torch, names[entry["dtype"]])).contiguous().view(torch.uint8)
    with file.open("r+b") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        stream.seek(start + entry["data_offsets"][0])
        stream.write(data.numpy().data)


def add_shard(out: Path, tensors: Mapping[str, Any]) -> None:
    """Add a weight file to a model, and write the index that names it."""
    from safetensors.torch import save_file

    files = weight_files(out)
    total = len(files) + 1
    weight_map, size = {}, 0
    for number, file in enumerate(files, 1):
        header = read_header(file)
        name = f"model-{number:05}-of-{total:05}.safetensors"
        file.rename(out / name)
        weight_map |= dict.fromkeys(header, name)
        size += max(entry["data_offsets"][1] for entry in header.values())
    name = f"model-{total:05}-of-{total:05}.safetensors"
    save_file(dict(tensors), out / name, metadata={"format": "pt"})
    weight_map |= dict.fromkeys(tensors, name)
    size += sum(value.numel() * value.element_size() for value in tensors.values())
    write_json(out / _INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})


def _edit_config(out: Path, **values: Any) -> None:
    config = read_json(out / "config.json")
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and (part is config or values.keys() & part.keys()):
            part.update(values)
    write_json(out / "config.json", config)


def _let_it_stop(out: Path) -> None:
    """Let generation end at the trained tokenizer's end token, if that is another."""
    from transformers import AutoTokenizer

    try:
        end = AutoTokenizer.from_pretrained(out).eos_token_id
    except Exception as error:  # the proof says that it is missing
        print(f"no tokenizer: {error!r}", file=sys.stderr)
        return
    config = read_json(out / "generation_config.json")
    if not isinstance(config, dict) or end is None:
        return
    known = config.get("eos_token_id")
    stops = known if isinstance(known, list) else [] if known is None else [known]
    if end not in stops:
        config["eos_token_id"] = [end, *stops] if stops else end
        write_json(out / "generation_config.json", config)


def prove_logits(job: Job, skeleton: Skeleton, progress: Callable[..., None]) -> dict[str, Any]:
    """Compare the answers of the merged model with those of base and adapter.

    Raises:
        LeviathanError: they differ more than number formats explain.
    """
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.out)
    prompts = [tokenizer(text, return_tensors="pt").input_ids for text in PROMPTS]
    progress("proving", 0, 2, "the answers of base and adapter")
    wanted = list(answers(lambda: adapted_model(job, skeleton), prompts))
    progress("proving", 1, 2, "the answers of the merged model")
    got = list(answers(lambda: merged_model(job, skeleton), prompts))
    progress("proving", 2, 2)
    largest = max(float((a - b).abs().max()) for a, b in zip(got, wanted, strict=True))
    same = torch.cat(
        [a.argmax(-1) == b.argmax(-1) for a, b in zip(got, wanted, strict=True)], dim=1
    )
    scale = max(float(logits.abs().max()) for logits in wanted)
    agreement = float(same.float().mean())
    if largest > 0.1 * scale or agreement < 0.9:
        _wrong(f"its logits differ by {largest:.3g} and {agreement:.1%} of its choices agree")
    return {
        "tokens": int(same.numel()),
        "max_difference": largest,
        "largest_logit": scale,
        "agreement": agreement,
    }


def answers(load: Callable[[], Any], prompts: Iterable[Any]) -> Iterator[Any]:
    """The logits of a model for each prompt, in 32 bits; the model goes when they are read."""
    import torch

    model = load().eval()
    with torch.no_grad():
        for prompt in prompts:
            yield model(prompt.to(model.device)).logits.float().cpu()


def adapted_model(job: Job, skeleton: Skeleton) -> Any:
    """The base as it was trained, with the adapter on it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantisation = None
    if job.quantised:
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=job.double_quant,
            bnb_4bit_compute_dtype=skeleton.dtype,
            llm_int8_skip_modules=job.skip_modules,
        )
    model = AutoModelForCausalLM.from_pretrained(
        job.base,
        dtype=skeleton.dtype,
        quantization_config=quantisation,
        device_map={"": _device()},
        trust_remote_code=job.trust_remote_code,
    )
    if rows := _new_rows(job)[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, job.adapter)


def merged_model(job: Job, skeleton: Skeleton) -> Any:
    """The merged model, as anybody would load it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        job.out,
        dtype=skeleton.dtype,
        device_map={"": _device()},
        trust_remote_code=job.trust_remote_code,
    )


def main() -> None:
    job = Job(**json.loads(Path(sys.argv[1]).read_bytes()))
    # A merge whose command line was killed would go on unseen, and hold the GPU.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != job.parent:
        sys.exit(1)
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event} | values) + "\n")
        events.flush()

    try:
        tell("result", result=Merge(job, tell).run())
    except LeviathanError as error:
        tell("error", message=error.message, hint=error.hint)
        sys.exit(error.exit_code)
    sys.stderr.flush()
    os._exit(0)  # torch takes a second to tear down what the kernel takes back anyway


if __name__ == "__main__":
    main()
