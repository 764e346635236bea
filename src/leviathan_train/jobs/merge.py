"""The merge's own process: it writes base and adapter as one model, tensor by tensor.

    python -m leviathan_train.jobs.merge <job.json> <file descriptor>

Events (`merge/job.py`) go to the descriptor; stdout and stderr are the log.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from leviathan_train.config.versions import installed
from leviathan_train.errors import LeviathanError
from leviathan_train.jobs.merge_answers import compare_answers
from leviathan_train.jobs.reference import FORMATS, Reference, Weights
from leviathan_train.merge.base import INDEX, weight_files
from leviathan_train.merge.job import Event, FileWritten, Job, Merged, Progress, Refused, encode
from leviathan_train.system.files import read_object, write_json
from leviathan_train.system.safetensors import Entry, read_header, write_header

LIBRARIES = ("axolotl", "transformers", "peft", "torch", "bitsandbytes")

Tell = Callable[[Event], None]

_PR_SET_PDEATHSIG = 1
_BLOCK = 8 << 20
_TOKENIZER = re.compile(
    r"(tokenizer|special_tokens_map|added_tokens|vocab|merges|chat_template|.*processor_config)\b.*"
)
# Weights in other forms, which would stay those of the base, and the index, which is rewritten.
_OTHER_WEIGHTS = re.compile(r".*\.(safetensors|bin|pth|pt|gguf|h5|msgpack)|.*\.index\.json")


class Merge:
    """One merge, from the base's shards to a model that others can load.

    Args:
        tell: sends an event to the command line.
    """

    def __init__(self, job: Job, tell: Tell) -> None:
        self.job, self.tell = job, tell
        self.out = Path(job.out)
        self.reference = Reference(job)
        self.adapted = 0
        self.largest_rounding = 0.0

    def run(self) -> Merged:
        """Write the model; what the command line records of it.

        Raises:
            LeviathanError: base and adapter cannot be merged exactly.
        """
        check_finite(self.job)
        untied = self.reference.untied()
        rows = self._vocabulary(untied)
        self.out.mkdir(exist_ok=True)
        self._copy_other_files()
        shards = weight_files(Path(self.job.base))
        headers = {}
        for number, shard in enumerate(shards):
            self.tell(Progress("merging", number, len(shards), shard.name))
            headers[shard.name] = self._write_shard(shard, untied)
        self.tell(Progress("merging", len(shards), len(shards)))
        if shards[0].name != "model.safetensors":
            write_index(self.out / INDEX, headers)
        if untied:
            edit_config(self.out / "config.json", tie_word_embeddings=False)
        if rows:
            edit_config(self.out / "config.json", vocab_size=rows)
        self._take_tokenizer()
        logits = None
        if self.job.prove == "logits":
            logits = compare_answers(self.job, self.reference.dtype, self.tell)
        return Merged(
            tensors=sum(len(header) for header in headers.values()),
            adapted=self.adapted,
            largest_rounding=self.largest_rounding,
            untied=sorted(untied),
            logits=logits,
            versions=installed(LIBRARIES),
        )

    def _vocabulary(self, untied: Collection[str]) -> int | None:
        """The number of rows of a vocabulary that grew in the training; None if it did not.

        Raises:
            LeviathanError: the adapter does not hold all that grew.
        """
        rows = self.reference.rows(untied)
        after = {now for _, now in rows.values()}
        if len(after) > 1:
            told = ", ".join(f"{name} has {now}" for name, (_, now) in sorted(rows.items()))
            raise LeviathanError(
                f"The vocabulary grew in the training, and the adapter holds only a part: {told}"
                " rows.",
                "Train it with:  lora_modules_to_save: [embed_tokens, lm_head]",
            )
        return after.pop() if any(before != now for before, now in rows.values()) else None

    def _copy_other_files(self) -> None:
        for file in Path(self.job.base).iterdir():
            if file.is_file() and not _OTHER_WEIGHTS.fullmatch(file.name):
                shutil.copyfile(file, self.out / file.name)

    def _write_shard(self, shard: Path, untied: dict[str, str]) -> dict[str, Entry]:
        """Write a shard as the base has it, with the tensors that the adapter changes.

        Args:
            untied: tensors to add, each after its source. They have its format, so that all
                tensors stay aligned.
        """
        reference = self.reference
        header: dict[str, Entry] = {}
        names: dict[str, str] = {}  # of the added ones, in memory
        for key, entry in read_header(shard).items():
            shape = reference.shape(key)
            header[key] = resized(entry, shape)
            for copy, source in untied.items():
                if reference.conversion.name[key] == source and not reference.holds(copy):
                    added = reference.conversion.key_of(copy)
                    header[added], names[added] = header[key], copy
        sha = hashlib.sha256()
        with (self.out / shard.name).open("wb") as stream, shard.open("rb") as base:

            def write(data: bytes | memoryview) -> None:
                stream.write(data)
                sha.update(data)

            write(write_header(header.items()))
            for key, entry in header.items():
                if key not in names and not reference.is_touched(key):
                    copy_bytes(base, entry, write)
                    continue
                value = reference.tensor(names[key]) if key in names else reference.on_disk(key)
                write(self._in_format(key, value, entry))
                self.adapted += key in names or reference.is_changed(key)
        self.tell(FileWritten(shard.name, sha.hexdigest()))
        return header

    def _in_format(self, key: str, value: Any, entry: Entry) -> memoryview:
        """A tensor in the number format of the base, as bytes; the rounding is noted."""
        if tuple(value.shape) != entry.shape:
            raise LeviathanError(
                f"{key} would have the shape {list(value.shape)} instead of {list(entry.shape)}.",
                "Is the base_model of the config the one that the adapter was trained on?",
            )
        written = value.to(FORMATS[entry.dtype]).contiguous()
        if written.dtype != value.dtype:
            off = float((written.to(value.dtype) - value).abs().max())
            self.largest_rounding = max(self.largest_rounding, off)
        view: memoryview = written.reshape(-1).view(torch.uint8).numpy().data
        return view

    def _take_tokenizer(self) -> None:
        """Put the tokenizer of the training in place of the base's.

        Generation shall end at its end token too, where that is another.
        """
        for file in Path(self.job.adapter).iterdir():
            if _TOKENIZER.fullmatch(file.name) and file.is_file():
                shutil.copyfile(file, self.out / file.name)
        if not (self.out / "tokenizer_config.json").is_file():
            raise LeviathanError(
                f"There is no tokenizer in {self.job.adapter} nor in {self.job.base}.",
                "Put the base's tokenizer files beside the adapter.",
            )
        end = AutoTokenizer.from_pretrained(self.out).eos_token_id
        stops = read_object(self.out / "generation_config.json").get("eos_token_id", end)
        stops = stops if isinstance(stops, list) else [stops]
        if end is not None and end not in stops:
            edit_config(self.out / "generation_config.json", eos_token_id=[end, *stops])


def check_finite(job: Job) -> None:
    """
    Raises:
        LeviathanError: the adapter holds NaN or infinity.
    """
    adapter = Weights.of_adapter(job.adapter)
    for name in adapter.entry:
        if not bool(torch.isfinite(adapter.tensor(name)).all()):
            raise LeviathanError(
                f"The adapter holds NaN or infinity in {name}: its training diverged.",
                "Merge an earlier checkpoint:  --checkpoint STEP",
            )


def resized(entry: Entry, shape: tuple[int, ...]) -> Entry:
    """The entry of a tensor that has another shape; `start` is no longer right."""
    if shape == entry.shape:
        return entry
    return Entry(entry.dtype, shape, 0, FORMATS[entry.dtype].itemsize * math.prod(shape))


def copy_bytes(base: Any, entry: Entry, write: Callable[[bytes], None]) -> None:
    """Copy a tensor that stays as it is, whatever its format."""
    base.seek(entry.start)
    left = entry.size
    while left > 0 and (block := base.read(min(left, _BLOCK))):
        left -= len(block)
        write(block)


def write_index(file: Path, headers: dict[str, dict[str, Entry]]) -> None:
    """Write which shard holds which tensor."""
    size = sum(entry.size for header in headers.values() for entry in header.values())
    weight_map = {key: shard for shard, header in headers.items() for key in header}
    write_json(file, {"metadata": {"total_size": size}, "weight_map": weight_map})


def edit_config(file: Path, **values: Any) -> None:
    """Set values in a model's config, in the part for text too if it names them."""
    config = read_object(file)
    text = config.get("text_config")
    if isinstance(text, dict) and values.keys() & text.keys():
        text.update(values)
    write_json(file, config | values)


def main() -> None:
    job = Job.read(Path(sys.argv[1]))
    # A merge whose command line was killed would go on unseen, and hold the GPU.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != job.parent:
        sys.exit(1)
    events = os.fdopen(int(sys.argv[2]), "w", encoding="utf-8")

    def tell(event: Event) -> None:
        events.write(encode(event))
        events.flush()

    try:
        tell(Merge(job, tell).run())
    except LeviathanError as error:
        tell(Refused(error.message, error.hint))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # torch takes a second to tear down what the kernel takes back anyway


if __name__ == "__main__":
    main()
