"""An Axolotl config, read once into what is used of it."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leviathan_train.errors import UsageError

PLUGIN = "leviathan_train.plugin.LeviathanPlugin"

_LOCAL_DATA = {".json", ".jsonl", ".csv", ".parquet", ".txt", ".arrow", ".zst", ".gz"}
_SECRET = re.compile(
    r"(token|secret|password|passwd|pwd|credential|auth|authorization|wandb_key"
    r"|(api|access|private|secret|storage|account)_?key(_id)?)s?$|^key$",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(r"(special|added|fix_untrained|lora)_?tokens$|^tokens$", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$")


@dataclass(frozen=True)
class Config:
    """A config file with its overrides applied.

    Attributes:
        path: the YAML file.
        values: the file's mapping after `overrides`.
        overrides: the keys given on the command line, dotted where nested.
    """

    path: Path
    values: Mapping[str, Any]
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output_dir(self) -> Path:
        """The run's folder, as written in the config."""
        return Path(str(self.values["output_dir"]))

    @property
    def resume_from_checkpoint(self) -> Path | None:
        """The checkpoint that the config itself names."""
        value = self.values.get("resume_from_checkpoint")
        return Path(str(value)) if value else None

    @property
    def plugins(self) -> list[str]:
        """The config's plugins and ours, ours last."""
        named = self.values.get("plugins") or []
        plugins = [named] if isinstance(named, str) else [str(name) for name in named]
        return plugins if PLUGIN in plugins else [*plugins, PLUGIN]

    @property
    def prepared_path(self) -> Path:
        """Where Axolotl keeps the tokenised rows."""
        return Path(str(self.values.get("dataset_prepared_path") or "last_run_prepared"))

    def local_datasets(self) -> list[tuple[str, Path]]:
        """Key and path of each data set that is a file or folder on this machine."""
        found = []
        for key in ("datasets", "test_datasets", "pretraining_dataset"):
            entries = self.values.get(key) or []
            for index, entry in enumerate(entries if isinstance(entries, list) else [entries]):
                path = entry.get("path") if isinstance(entry, Mapping) else entry
                where = f"{key}[{index}].path"
                if path and is_data_file(str(path)):
                    found.append((where, Path(str(path)).expanduser()))
                files = entry.get("data_files") if isinstance(entry, Mapping) else None
                for name in files if isinstance(files, list) else [files] if files else []:
                    if is_local(str(name)):
                        found.append((f"{key}[{index}].data_files", Path(str(name))))
        return found


def is_local(name: str) -> bool:
    """Whether `name` means a path on this machine rather than a repository on a hub."""
    if "://" in name:
        return False
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or os.path.exists(name)


def is_data_file(name: str) -> bool:
    """Whether `name` means a data file or folder on this machine."""
    return "://" not in name and (is_local(name) or Path(name).suffix in _LOCAL_DATA)


def load(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a config and apply `KEY=VALUE` overrides.

    Raises:
        UsageError: no such file, broken YAML (with line and column), or no `output_dir`.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"No config at {path}.", _similar_config(path)) from None
    except IsADirectoryError:
        raise UsageError(
            f"{path} is a folder, not a config.", _similar_config(path / "x")
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"Cannot read {path}: {error}.", "Check the file and its rights."
        ) from None
    try:
        values = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(f"{path}{where}: not valid YAML: {problem}.", "Mend that line.") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UsageError(
            f"{path} holds no mapping of keys to values.",
            "An Axolotl config starts like this:  base_model: Qwen/Qwen3-8B",
        )
    given = dict(_parse_override(text) for text in overrides)
    for key, value in given.items():
        _set(values, key, value)
    config = Config(path, values, given)
    output_dir = values.get("output_dir")
    if output_dir is not None and (not isinstance(output_dir, str) or "\0" in output_dir):
        raise UsageError(
            f"{path}: output_dir is no name of a folder.", f'Write  output_dir: "{output_dir!s}"'
        )
    _check_shape(config)
    if not output_dir or not output_dir.strip():
        raise UsageError(
            f"{path}: key output_dir is missing: it names the run's folder.",
            f"Add a line such as  output_dir: work/training/{path.stem}",
        )
    if Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise UsageError(
            f"{path}: output_dir {output_dir} is a file.", "Name a folder for the run there."
        )
    return config


def _check_shape(config: Config) -> None:
    """Refuse values of a kind that Axolotl would refuse, where they are used before it is."""
    plugins = config.values.get("plugins")
    if not isinstance(plugins, str | list | None):
        raise UsageError(
            f"{config.path}: plugins is no list.", f"Write  plugins: [{PLUGIN}]  or leave it out."
        )
    for key in ("base_model", "adapter", "optimizer", "lr_scheduler"):
        if isinstance(config.values.get(key), list | Mapping):
            raise UsageError(
                f"{config.path}: {key} is no name.", "Give one name, without [ ] or { }."
            )


def check_inputs(config: Config) -> None:
    """Check that the base model and the data sets that are named as paths exist.

    Raises:
        UsageError: naming the key and the path that is missing.
    """
    base = config.values.get("base_model")
    if not base:
        raise UsageError(
            f"{config.path}: key base_model is missing.",
            "Add a line such as  base_model: Qwen/Qwen3-8B",
        )
    for key in ("datasets", "test_datasets"):
        if not isinstance(config.values.get(key) or [], list):
            raise UsageError(
                f"{config.path}: {key} is no list.",
                f"Write  {key}: [{{path: data.jsonl, ds_type: json, type: alpaca}}]",
            )
    if is_local(str(base)) and not Path(str(base)).expanduser().exists():
        raise UsageError(
            f"{config.path}: base_model {base} does not exist.",
            "Correct the path, or name a model of the hub such as Qwen/Qwen3-8B.",
        )
    if not is_local(str(base)) and model_folder(str(base)) is None and _hub_is_offline():
        raise UsageError(
            f"{config.path}: base_model {base} is neither a folder nor in the hub's cache,"
            " and HF_HUB_OFFLINE forbids to fetch it.",
            "Unset HF_HUB_OFFLINE, or name the folder of a model.",
        )
    for key, path in config.local_datasets():
        if not path.exists():
            raise UsageError(
                f"{config.path}: {key}: {path} does not exist.",
                "Correct the path, or put the data there.",
            )
    if not config.values.get("datasets") and not config.values.get("pretraining_dataset"):
        raise UsageError(
            f"{config.path}: key datasets is missing.",
            "Add  datasets: [{path: data.jsonl, ds_type: json, type: alpaca}]",
        )


def normalise(value: Any) -> Any:
    """`value` as Axolotl would understand it: numbers in strings become numbers."""
    if isinstance(value, str) and _NUMBER.match(value):
        number = float(value)
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {key: normalise(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [normalise(item) for item in value]
    return value


def redact(value: Any) -> Any:
    """`value` without any token, key or password in it."""
    if isinstance(value, Mapping):
        return {
            str(key): "[redacted]" if item and is_secret(str(key), item) else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if isinstance(value, str):
        value = re.sub(r"(://)[^/\s@]+@", r"\1[redacted]@", value)
        value = re.sub(
            r"(?i)([?&][\w-]*(?:token|key|sig|signature|secret)=)[^&\s]+", r"\1[redacted]", value
        )
        return re.sub(r"\b(hf_|sk-|ghp_|glpat-)[A-Za-z0-9_-]{16,}", "[redacted]", value)
    return value


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


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def _parse_override(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", key.strip()):
        raise UsageError(
            f"--set {text!r} is not KEY=VALUE.", "For example:  --set learning_rate=1e-4"
        )
    try:
        return key.strip(), normalise(yaml.safe_load(value))
    except (yaml.YAMLError, ValueError, RecursionError):
        return key.strip(), value


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        child = values.get(parent)
        if not isinstance(child, dict):
            child = values[parent] = {}
        values = child
    values[last] = value


def _similar_config(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("configs")
    names = [str(found) for found in sorted(folder.glob("*.y*ml"))] if folder.is_dir() else []
    best = nearest(str(path), names)
    if best:
        return f"Did you mean {best}?"
    return f"There: {', '.join(names[:5])}." if names else "Name an Axolotl YAML file."


def _hub_is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def model_folder(name: str) -> Path | None:
    """The base model's folder: itself, or its newest snapshot in the hub's cache."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    snapshots = hub / f"models--{name.replace('/', '--')}" / "snapshots"
    found = [path for path in snapshots.glob("*") if (path / "config.json").exists()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def input_facts(config: Config) -> dict[str, Any]:
    """What a resume depends on outside of the config: the base model and the data files.

    Returns:
        `base`: name and, for a folder, a hash of its `config.json` and the size of its
        weights in bytes; `data`: size in bytes and mtime in seconds of each local data set.
    """
    name = str(config.values.get("base_model"))
    base: dict[str, Any] = {"name": name}
    folder = Path(name).expanduser()
    if folder.is_dir():
        import hashlib

        with contextlib.suppress(OSError):
            base["config"] = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
        weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
        base["bytes"] = sum(path.stat().st_size for path in weights)
    data = {}
    for _, path in config.local_datasets():
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        with contextlib.suppress(OSError):
            stats = [file.stat() for file in files if file.is_file()]
            data[str(path)] = [
                sum(stat.st_size for stat in stats),
                max((int(stat.st_mtime) for stat in stats), default=0),
            ]
    return {"base": base, "data": data}
