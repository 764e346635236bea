"""What a training reads besides its config: the base model and the data files."""

from __future__ import annotations

import glob
import hashlib
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from leviathan_train.config.base_model import base_facts, is_local, model_folder, weight_files
from leviathan_train.config.load import Config, entries, nearest
from leviathan_train.config.requirements import is_on
from leviathan_train.errors import UsageError
from leviathan_train.system.files import read_object

_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "merges.txt", "*.tiktoken", "tekken.json")
_OWN_TEMPLATE = "tokenizer_default"
_LOCAL_DATA = {".json", ".jsonl", ".csv", ".parquet", ".txt", ".arrow", ".zst", ".gz"}


def input_faults(config: Config) -> Iterator[UsageError]:
    """What is wrong with the base model and with the data sets that are named as paths."""
    try:
        _check_base(config)
    except UsageError as error:
        yield error
    for key in ("datasets", "test_datasets"):
        if not isinstance(config.values.get(key) or [], list):
            yield UsageError(
                f"{config.at(key)} is not a list.",
                f"Write  {key}: [{{path: data.jsonl, ds_type: json, type: alpaca}}]",
            )
    for key, path in local_datasets(config):
        if not path.exists() and not glob.glob(str(path)):
            yield UsageError(
                f"{config.at(key)}: {path} does not exist.",
                _similar_file(path) or "Correct the path, or put the data there.",
            )
    if not config.values.get("datasets") and not config.values.get("pretraining_dataset"):
        yield UsageError(
            f"{config.path}: key datasets is missing.",
            "Add  datasets: [{path: data.jsonl, ds_type: json, type: alpaca}]",
        )


def _similar_file(path: Path) -> str | None:
    """What was probably meant by a path that is not there, as a hint."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return f"There is no folder {path.parent}; relative paths start from {Path.cwd()}."
    close = nearest(path.name, names)
    return f"Did you mean {path.parent / close}?" if close else None


def _check_base(config: Config) -> None:
    base = config.values.get("base_model")
    if not base:
        raise UsageError(
            f"{config.path}: key base_model is missing.",
            "Add a line such as  base_model: Qwen/Qwen3-8B",
        )
    if is_local(str(base)):
        folder = Path(str(base)).expanduser()
        if not folder.exists():
            raise UsageError(
                f"{config.at('base_model')} {base} does not exist.",
                _similar_file(folder)
                or "Correct the path, or name a model of the hub such as Qwen/Qwen3-8B.",
            )
        if not is_on(config.values.get("reinit_weights")):
            _check_base_files(config, folder)
    elif is_on(os.environ.get("HF_HUB_OFFLINE")) and model_folder(str(base)) is None:
        raise UsageError(
            f"{config.at('base_model')} {base} is neither a folder nor in the hub's"
            " cache, and HF_HUB_OFFLINE forbids downloading it.",
            "Unset HF_HUB_OFFLINE, or name the folder of a model.",
        )


def _check_base_files(config: Config, folder: Path) -> None:
    """Check that a base model's folder holds what transformers loads, whole by its names.

    Raises:
        UsageError: naming what is missing.
    """
    where = f"{config.at('base_model')} {folder}"
    again = "Copy the whole model there, or name another folder."
    if not folder.is_dir():
        raise UsageError(f"{where} is a file.", "Name the folder of the model.")
    if not (folder / "config.json").is_file() and not config.values.get("base_model_config"):
        if (folder / "adapter_config.json").is_file():
            raise UsageError(
                f"{where} is an adapter, not a model.",
                f"Name its base model; to train the adapter on, add:  lora_model_dir: {folder}",
            )
        raise UsageError(f"{where} has no config.json.", again)
    found = weight_files(folder)
    if not found and not any(folder.glob("*.gguf")):
        raise UsageError(f"{where} has no weights (*.safetensors or *.bin).", again)
    for file in found:
        if _is_pointer(file):
            raise UsageError(
                f"{where}: {file.name} is a pointer of git-lfs, not the file itself.",
                f"Fetch it:  git -C {shlex.quote(str(folder))} lfs pull",
            )
    for index in folder.glob("*.safetensors.index.json"):
        shards = set((read_object(index).get("weight_map") or {}).values())
        if gone := sorted(name for name in shards if not (folder / str(name)).exists()):
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            raise UsageError(f"{where}: {gone[0]}{more} is missing.", again)
    if not config.values.get("tokenizer_config") and not any(
        file for name in _TOKENIZERS for file in folder.glob(name)
    ):
        raise UsageError(
            f"{where} has no tokenizer (tokenizer.json or tokenizer.model).",
            "Copy it there, or name where it is with the key tokenizer_config.",
        )


def _is_pointer(file: Path) -> bool:
    """Whether git left a pointer where a large file should be."""
    try:
        with file.open("rb") as stream:
            return file.stat().st_size < 1024 and stream.read(24) == b"version https://git-lfs."
    except OSError:
        return False


def check_chat_template(config: Config) -> None:
    """Check that a chat has a template: the tokenizer's own, or one that the config names.

    Raises:
        UsageError: the tokenizer has none, and it is asked for.
    """
    folder = model_folder(str(config.values.get("base_model")))
    named = [
        entry.get("chat_template") or config.values.get("chat_template") or _OWN_TEMPLATE
        for _, _, entry in entries(config.values, "datasets")
        if str(entry.get("type")).startswith("chat_template")
    ]
    if folder is None or config.values.get("tokenizer_config") is not None:
        return
    if _OWN_TEMPLATE not in named or config.values.get("tokenizer_use_mistral_common"):
        return
    own = read_object(folder / "tokenizer_config.json").get("chat_template")
    if not own and not any(folder.glob("chat_template*")) and any(folder.glob("tokenizer*")):
        raise UsageError(
            f"{config.path}: the tokenizer of {config.values['base_model']} has no chat template,"
            " and type: chat_template needs one.",
            "Name one that fits the model, for example:  chat_template: chatml",
        )


def local_datasets(config: Config) -> list[tuple[str, Path]]:
    """Key and path of each data set that is a file or folder on this machine."""
    found = []
    for key in ("datasets", "test_datasets", "pretraining_dataset"):
        named = config.values.get(key) or []
        for index, entry in enumerate(named if isinstance(named, list) else [named]):
            given = entry if isinstance(entry, Mapping) else {"path": entry}
            path, files = given.get("path"), given.get("data_files") or []
            if path and is_data_file(str(path)):
                found.append((f"{key}[{index}].path", Path(str(path)).expanduser()))
            for name in files if isinstance(files, list) else [files]:
                if is_local(str(name)):
                    found.append((f"{key}[{index}].data_files", Path(str(name))))
    return found


def is_data_file(name: str) -> bool:
    """Whether `name` means a data file or folder on this machine."""
    return "://" not in name and (is_local(name) or Path(name).suffix in _LOCAL_DATA)


@dataclass(frozen=True)
class DataFacts:
    """What tells whether a data file, or a folder of them, has changed.

    Attributes:
        bytes: the size, of a folder the sum of its files.
        mtime_ns: nanoseconds since the epoch, of a folder the newest of its files.
        sha256: of the content; empty in the records of version 0.1, whose times are seconds.
    """

    bytes: int
    mtime_ns: int
    sha256: str = ""

    @classmethod
    def from_json(cls, value: Any) -> DataFacts | None:
        """The facts that a record holds, also one of version 0.1 (`[bytes, seconds]`)."""
        try:
            if isinstance(value, list):
                return cls(int(value[0]), int(value[1]) * 10**9)
            return cls(int(value["bytes"]), int(value["mtime_ns"]), str(value["sha256"]))
        except (KeyError, IndexError, TypeError, ValueError):
            return None

    @classmethod
    def of(cls, path: Path) -> DataFacts:
        """Size and time of a file or folder; its content is not read.

        Raises:
            OSError: it cannot be read.
        """
        stats = [file.stat() for file in _files(path)]
        newest = max((stat.st_mtime_ns for stat in stats), default=0)
        return cls(sum(stat.st_size for stat in stats), newest)

    def is_of(self, path: Path) -> bool:
        """Whether `path` still has the content that these facts tell of.

        The content is read only where the size is the same and the time is not.

        Raises:
            OSError: it cannot be read.
        """
        now = DataFacts.of(path)
        if now.bytes != self.bytes:
            return False
        if not self.sha256:
            return now.mtime_ns // 10**9 == self.mtime_ns // 10**9
        return now.mtime_ns == self.mtime_ns or _sha256(path) == self.sha256


def data_facts(config: Config, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`DataFacts` of each local data set by path, as JSON; reads every file that is not known.

    Args:
        known: what an earlier call returned; where size and time are the same, its hash is
            taken over.
    """
    found = {}
    for _, path in local_datasets(config):
        old = DataFacts.from_json((known or {}).get(str(path)))
        try:
            now = DataFacts.of(path)
            if old and old.sha256 and (old.bytes, old.mtime_ns) == (now.bytes, now.mtime_ns):
                now = old
            found[str(path)] = asdict(replace(now, sha256=now.sha256 or _sha256(path)))
        except OSError:
            continue
    return found


def changed_data(config: Config, old: Mapping[str, Any]) -> Iterator[tuple[Path, DataFacts]]:
    """The local data sets whose content is not what `data_facts` told earlier, and what it was."""
    for _, path in local_datasets(config):
        before = DataFacts.from_json(old.get(str(path)))
        try:
            if before and not before.is_of(path):
                yield path, before
        except OSError:
            continue


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [file for file in sorted(path.rglob("*")) if file.is_file()]


def _sha256(path: Path) -> str:
    """Of a file's content, or of the names and contents below a folder."""
    digests = []
    for file in _files(path):
        with file.open("rb") as stream:
            digests.append((file, hashlib.file_digest(stream, "sha256").hexdigest()))
    if not path.is_dir():
        return digests[0][1]
    lines = "".join(f"{sha} {file.relative_to(path)}\n" for file, sha in digests)
    return hashlib.sha256(lines.encode()).hexdigest()


def input_facts(config: Config, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a resume depends on outside of the config, for the seal.

    It reads every data file whose hash is not `known` (see `data_facts`), so a trainer asks
    for it once, when it prepares the rows: what a file is later is not what was trained on.

    Returns:
        `base`: see `base_facts`; `data`: see `data_facts`.
    """
    return {"base": config_base_facts(config), "data": data_facts(config, known)}


def config_base_facts(config: Config) -> dict[str, Any]:
    """`base_facts` of the base model that the config names."""
    revision = config.values.get("revision_of_model")
    return base_facts(str(config.values.get("base_model")), str(revision) if revision else None)
