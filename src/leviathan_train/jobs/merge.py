"""The merge's own process: Axolotl merges, this puts right what it spoils, and proves it.

    python -m leviathan_train.jobs.merge <job.json> <file descriptor>

Progress and result are JSON lines on the descriptor; stdout and stderr are the log. Line
references are to axolotl 0.19.
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch
from axolotl.cli.utils import lora_merge
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from leviathan_train import __version__
from leviathan_train.errors import LeviathanError
from leviathan_train.jobs.reference import DEVICE, Reference, Skeleton, Weights
from leviathan_train.merge.adapters import PREFIX, read_header, weight_files
from leviathan_train.merge.merging import Job, Progress
from leviathan_train.system.files import read_json, write_json

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

Tell = Callable[..., None]

_PR_SET_PDEATHSIG = 1
_INDEX = "model.safetensors.index.json"
_FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# What Axolotl's merge takes from an adapter (cli/utils/lora_merge.py:222 and :593), and
# what else of LoRA peft merges.
_FOLDED = re.compile(r"\.(lora_[AB]\.weight|lora_magnitude_vector)$")
_OTHER = re.compile(r"\.(lora_B\.bias|lora_embedding_[AB])$")
_WRAPPED = re.compile(r"\.(base_layer|modules_to_save|original_module)\.")
_TOKENIZER = re.compile(
    r"(tokenizer|special_tokens_map|added_tokens|vocab|merges|chat_template|.*processor_config)\b.*"
)


class Merge:
    """One merge, from the base's shards to a model that is proven.

    Args:
        tell: sends an event to the command line.
    """

    def __init__(self, job: Job, tell: Tell) -> None:
        self.job, self.tell = job, tell
        self.out = Path(job.out)
        self.base = Weights.of_model(job.base)
        self.adapter = Weights.of_adapter(job.adapter)
        self.skeleton = Skeleton(job)
        self.mended: list[str] = []

    def run(self) -> dict[str, Any]:
        """Merge, mend, prove; what the command line records of it."""
        self._check_finite()
        missed, unties = self._what_axolotl_misses()
        self._merge_by_axolotl()
        if missed or unties:
            self._mend(missed)
        self._take_tokenizer()
        for file in weight_files(self.out):
            self.tell("file", name=file.name)  # it is done: to be forced to disk, and hashed
        proof: dict[str, Any] = {}
        if self.job.prove != "none":
            proof["weights"] = self._prove_weights()
        if self.job.prove == "logits":
            proof["logits"] = prove_logits(self.job, self.skeleton, self._progress)
        versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
        versions = {"leviathan": __version__} | versions
        return {"proof": proof, "mended": self.mended, "versions": versions}

    def _progress(self, phase: str, done: int, total: int, detail: str = "") -> None:
        self.tell("progress", progress=asdict(Progress(phase, done, total, detail)))

    def _check_finite(self) -> None:
        for name in self.adapter.names():
            if not bool(torch.isfinite(self.adapter.tensor(name)).all()):
                raise LeviathanError(
                    f"The adapter holds NaN or infinity in {name}: its training diverged.",
                    "Merge an earlier checkpoint:  --checkpoint STEP",
                )

    def _what_axolotl_misses(self) -> tuple[set[str], bool]:
        """Names in memory that the adapter changes and Axolotl would not; whether a tie goes.

        It adds LoRA to, and puts a whole weight in place of, what the base has on disk. A
        head that is tied to the embedding is not there; biases and LoRA of embeddings it
        passes over.

        Raises:
            LeviathanError: the adapter holds what cannot be merged.
        """
        skeleton = self.skeleton
        on_disk = {skeleton.name_of(key) for key in self.base.names()}
        tied = skeleton.tied.keys() | set(skeleton.tied.values())
        missed, unties = set(), False
        for key in self.adapter.names():
            name = key.removeprefix(PREFIX)
            plain = _WRAPPED.sub(".", name)
            if plain != name and PREFIX + plain in self.adapter.file:
                continue  # the same again, of a vocabulary that was made larger
            whole = ".lora_" not in name
            weight = plain if whole else re.sub(r"\.lora_.*", ".weight", name)
            if name.endswith(".lora_B.bias"):
                weight = weight.removesuffix("weight") + "bias"
            known = whole or _FOLDED.search(name) or _OTHER.search(name)
            if not known or not (weight in skeleton.names or skeleton.fuses):
                raise LeviathanError(
                    f"The adapter holds {name}, which fits nothing in the base.",
                    "Is the base_model of the config the one that it was trained on?",
                )
            folds = (whole and name == weight and name.endswith(".weight")) or _FOLDED.search(name)
            if not folds or not (weight in on_disk or skeleton.fuses):
                missed.add(weight)
            unties |= weight in tied
        return missed, unties

    def _merge_by_axolotl(self) -> None:
        """Axolotl's merge, shard by shard, rounding to 4 bits only what training rounded.

        Its default rounds every tensor of two dimensions (cli/utils/lora_merge.py:1375),
        embeddings and head too; and it rounds what is on disk, where training rounds what
        it has loaded. Only that is put right.
        """
        skeleton = self.skeleton
        rounds, round_trip = lora_merge._should_nf4_roundtrip, lora_merge._simulate_nf4_roundtrip

        def should_round(key: str, tensor: Any, simulate_nf4: bool, experts: bool) -> bool:
            rounded = simulate_nf4 and skeleton.name_of(key) in skeleton.rounded
            return rounded or bool(rounds(key, tensor, False, experts))

        def round_loaded(tensor: Any, **kwargs: Any) -> Any:
            return round_trip(tensor.to(skeleton.dtype), **kwargs).to(tensor.dtype)

        def counted(shards: list[Path], **_: Any) -> Iterator[Path]:
            for number, shard in enumerate(shards):
                self._progress("merging", number, len(shards), shard.name)
                yield shard
            self._progress("merging", len(shards), len(shards))

        lora_merge._should_nf4_roundtrip = should_round
        lora_merge._simulate_nf4_roundtrip = round_loaded
        lora_merge.tqdm = counted
        lora_merge.merge_lora_sharded_efficient(
            base_model_path=self.job.base,
            lora_adapter_path=self.job.adapter,
            output_path=self.out,
            device=DEVICE,
            simulate_nf4=self.job.quantised,
            simulate_nf4_experts=self.job.quantise_experts,
            nf4_double_quant=self.job.double_quant,
            trust_remote_code=self.job.trust_remote_code,
        )
        gc.collect()

    def _mend(self, missed: set[str]) -> None:
        """Put in place what peft makes of the tensors that Axolotl misses."""
        reference, added = Reference(self.job, self.skeleton), {}
        for copy, source in self.skeleton.tied.items():
            if {copy, source} & reference.changed and copy not in reference.key:
                same = torch.equal(reference.tensor(copy), reference.tensor(source))
                missed = missed - {copy} if same else missed | {copy}
        merged = Weights.of_model(self.job.out)
        for name in sorted(missed):
            value = reference.tensor(name)
            if key := reference.key.get(name):
                overwrite(merged.file[key], key, value)
            else:
                source = reference.key[self.skeleton.tied[name]]
                added[name] = value.to(self.base.tensor(source).dtype).contiguous()
            self.mended.append(key or name)
        if added:
            add_shard(self.out, added)
            edit_json(self.out / "config.json", tie_word_embeddings=False)
        self.skeleton = Skeleton(self.job)  # peft has changed the old one

    def _take_tokenizer(self) -> None:
        """Put the tokenizer of the training in place of the base's, which Axolotl takes.

        Generation shall end at its end token too, where that is another.
        """
        for file in Path(self.job.adapter).iterdir():
            if _TOKENIZER.fullmatch(file.name) and file.is_file():
                (self.out / file.name).write_bytes(file.read_bytes())
        if not (self.out / "tokenizer_config.json").is_file():
            raise LeviathanError(
                f"There is no tokenizer in {self.job.adapter} nor in {self.job.base}.",
                "Put the base's tokenizer files beside the adapter.",
            )
        end = AutoTokenizer.from_pretrained(self.out).eos_token_id
        stops = (read_json(self.out / "generation_config.json") or {}).get("eos_token_id", end)
        stops = stops if isinstance(stops, list) else [stops]
        if end is not None and end not in stops:
            edit_json(self.out / "generation_config.json", eos_token_id=[end, *stops])

    def _prove_weights(self) -> dict[str, Any]:
        """Re-read the merged tensors and compare them with base and adapter.

        Raises:
            LeviathanError: they differ.
        """
        merged, reference = Weights.of_model(self.job.out), Reference(self.job, self.skeleton)
        new = [name for name in self.mended if name not in self.base.file]
        if strange := set(merged.names()) ^ {*self.base.names(), *new}:
            wrong(f"{min(strange)} is {'missing' if min(strange) in self.base.file else 'new'}")
        names = {key: self.skeleton.name_of(key) for key in merged.names()}
        tied = self.skeleton.tied.keys() - set(new)
        lost = reference.changed - set(names.values()) - tied
        if lost and not self.skeleton.fuses:
            wrong(f"the adapter's {min(lost)} is not in it")
        keys = [key for key, name in names.items() if name]
        if self.base.bytes() > SAMPLED_ABOVE:
            keys = sample(keys, lambda key: (names[key] in reference.changed, key in new))
        largest = 0.0
        for number, key in enumerate(keys):
            self._progress("proving", number, len(keys), key)
            like = self.base.header.get(key, merged.header[key])["dtype"]
            if merged.header[key]["dtype"] != like:
                wrong(f"{key} is {merged.header[key]['dtype']} instead of {like}")
            got, name = merged.tensor(key), str(names[key])
            if name in reference.changed:
                largest = max(largest, compare(key, got, reference.tensor(name)))
            elif not torch.equal(got, reference.before(name)):
                wrong(f"{key}, which the adapter leaves alone, is not the base's")
        self._progress("proving", len(keys), len(keys))
        return {
            "tensors": len(names),
            "compared": len(keys),
            "adapted": len(reference.changed),
            "adapted_compared": sum(names[key] in reference.changed for key in keys),
            "max_difference": largest,
        }


def sample(keys: list[str], kind: Callable[[str], Any]) -> list[str]:
    """Some names of each kind, evenly spread, and all outside of the numbered layers."""
    kinds: dict[Any, list[str]] = {}
    for key in keys:
        inside = re.search(r"\.\d+\.", key)
        kinds.setdefault((kind(key), key.rpartition(".")[2]) if inside else key, []).append(key)
    chosen = []
    for found in kinds.values():
        count = min(SAMPLES, len(found))
        chosen += [found[part * (len(found) - 1) // max(1, count - 1)] for part in range(count)]
    return chosen


def wrong(what: str) -> None:
    """Refuse the merged model."""
    raise LeviathanError(
        f"The merged model is not base and adapter: {what}. It was thrown away.",
        "Please report it. To have it all the same:  --prove none",
    )


def compare(key: str, got: Any, wanted: Any) -> float:
    """The largest difference of a tensor as written from what it shall be, in 32 bits.

    Raises:
        LeviathanError: they differ by more than its format rounds, or in shape.
    """
    if got.shape != wanted.shape:
        wrong(f"{key} has the shape {list(got.shape)} instead of {list(wanted.shape)}")
    rounding = float((wanted.to(got.dtype).float() - wanted).norm())
    difference = got.float().sub_(wanted)
    largest = float(difference.abs().max())
    if not float(difference.norm()) <= 1.5 * rounding + 1e-6 * float(wanted.norm()):
        wrong(f"{key} differs by up to {largest:.3g}")
    return largest


def overwrite(file: Path, key: str, value: Any) -> None:
    """Put a tensor in place of one of the same shape in a safetensors file."""
    entry = read_header(file)[key]
    if entry["shape"] != list(value.shape) or entry["dtype"] not in _FORMATS:
        wrong(f"{key} has the shape {entry['shape']} instead of {list(value.shape)}")
    data = value.to(_FORMATS[entry["dtype"]]).contiguous().view(torch.uint8)
    with file.open("r+b") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        stream.seek(start + entry["data_offsets"][0])
        stream.write(data.numpy().data)


def add_shard(out: Path, tensors: Mapping[str, Any]) -> None:
    """Add a weight file to a model, and write the index that names it."""
    files = weight_files(out)
    names = [f"model-{n + 1:05}-of-{len(files) + 1:05}.safetensors" for n in range(len(files) + 1)]
    for file, name in zip(files, names, strict=False):
        file.rename(out / name)
    save_file(dict(tensors), out / names[-1], metadata={"format": "pt"})
    headers = {name: read_header(out / name) for name in names}
    weight_map = {key: name for name, header in headers.items() for key in header}
    size = sum(max(e["data_offsets"][1] for e in header.values()) for header in headers.values())
    write_json(out / _INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})


def edit_json(file: Path, **values: Any) -> None:
    """Set values in a model's config, in the part for text too if it names them."""
    config = read_json(file)
    text = config.get("text_config")
    if isinstance(text, dict) and values.keys() & text.keys():
        text.update(values)
    write_json(file, config | values)


def prove_logits(job: Job, skeleton: Skeleton, progress: Callable[..., None]) -> dict[str, Any]:
    """Compare the answers of the merged model with those of base and adapter.

    In 32 bits where the memory allows it, so that only the merge is judged.

    Raises:
        LeviathanError: they differ by more than number formats explain.
    """
    size, formats = 0, set()
    for entry in Weights.of_model(job.base).header.values():
        size += 4 * (entry["data_offsets"][1] - entry["data_offsets"][0])
        formats.add(_FORMATS.get(entry["dtype"]))
    room = torch.cuda.mem_get_info()[0] if DEVICE == "cuda" else psutil.virtual_memory().available
    # What training rounded to 4 bits, it had loaded in its own format before.
    exact = not job.quantised or formats == {skeleton.dtype} or skeleton.dtype == torch.float32
    dtype = torch.float32 if exact and size < room / 2 else skeleton.dtype
    tokenizer = AutoTokenizer.from_pretrained(job.out)
    prompts = [tokenizer(text, return_tensors="pt").input_ids for text in PROMPTS]
    progress("proving", 0, 2, "the answers of base and adapter")
    wanted = answers(adapted_model(job, dtype), prompts)
    progress("proving", 1, 2, "the answers of the merged model")
    got = answers(merged_model(job, dtype), prompts)
    progress("proving", 2, 2)
    difference, scale = float((got - wanted).abs().max()), float(wanted.abs().max())
    agreement = float((got.argmax(-1) == wanted.argmax(-1)).float().mean())
    if not (difference <= 0.1 * scale and agreement >= 0.9):
        wrong(f"its logits differ by up to {difference:.3g}, {agreement:.1%} of its choices agree")
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
        key.removeprefix(PREFIX): entry["shape"]
        for key, entry in Weights.of_adapter(job.adapter).header.items()
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


def main() -> None:
    job = Job(**json.loads(Path(sys.argv[1]).read_bytes()))
    # A merge whose command line was killed would go on unseen, and hold the GPU.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != job.parent:
        sys.exit(1)
    events = os.fdopen(int(sys.argv[2]), "w", encoding="utf-8")

    def tell(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event} | values) + "\n")
        events.flush()

    try:
        tell("result", result=Merge(job, tell).run())
    except LeviathanError as error:
        tell("error", message=error.message, hint=error.hint)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # torch takes a second to tear down what the kernel takes back anyway


if __name__ == "__main__":
    main()
