"""An Axolotl config: the YAML file with its overrides, read once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leviathan_train.config.lines import broken_at
from leviathan_train.config.redact import quoted
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.system import mounts

PLUGIN = "leviathan_train.plugin.LeviathanPlugin"

_PATIENCE = 10.0
"""Seconds to wait for the answer of a mount that the user named."""

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$")

_PROBLEMS = {
    "could not find expected ':'": "no key with a value; after a key come a colon and a space",
    "expected <document start>": "more follows where the config has ended",
    "mapping values are not allowed": "a colon too many, or a wrong indentation",
    "tab character": "a tab: indent with spaces",
    "character '\\t'": "a tab: indent with spaces",
}
"""What a part of PyYAML's message means to who wrote the line."""


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
        """The checkpoint, or the run's folder, that the config itself names.

        None also where the config says `true`, as transformers' users do: that means the
        run's newest checkpoint, which is what a start takes anyway.
        """
        value = self.values.get("resume_from_checkpoint")
        if not value or value is True or str(value).lower() in {"true", "yes"}:
            return None
        return Path(str(value))

    @property
    def plugins(self) -> list[str]:
        """The config's plugins and ours, ours last."""
        named = self.values.get("plugins") or []
        plugins = [named] if isinstance(named, str) else [str(name) for name in named]
        # Axolotl 0.21 also takes `package.module:Class`, and stores it with a dot.
        plugins = [name.replace(":", ".") for name in plugins]
        return plugins if PLUGIN in plugins else [*plugins, PLUGIN]

    def is_set(self, key: str) -> bool:
        """Whether a key, or one below it, was given by `--set`."""
        return any(name.split(".")[0] == key for name in self.overrides)

    def at(self, key: str) -> str:
        """What begins with a key, behind where that was given: `--set`, or else the file."""
        return f"{'--set' if self.is_set(re.split(r'[^A-Za-z0-9_]', key)[0]) else self.path}: {key}"

    @property
    def prepared_path(self) -> Path:
        """Where Axolotl keeps the tokenised rows."""
        return Path(str(self.values.get("dataset_prepared_path") or "last_run_prepared"))


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a config and apply `KEY=VALUE` overrides.

    Raises:
        UsageError: no such file, broken YAML (with line and column), or no `output_dir`.
        LeviathanError: it, or its run, lies on a mount that does not answer.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    check_answers(path)
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
            f"Cannot read {path}: {error}.", "Check the file and its permissions."
        ) from None
    try:
        values = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        place = broken_at(error)
        where = f", line {place[0]}, column {place[1]}" if place else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        problem = next((told for part, told in _PROBLEMS.items() if part in problem), problem)
        if "quoted scalar" in str(getattr(error, "context", None)):
            problem = "the quote that begins here is never closed"
        raise UsageError(f"{path}{where}: not valid YAML: {problem}.", "Fix that line.") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UsageError(
            f"{path} is not a mapping of keys to values.",
            "An Axolotl config starts like this:  base_model: Qwen/Qwen3-8B",
        )
    given = dict(_parse_override(text) for text in overrides)
    for key, value in given.items():
        _set(values, key, value)
    config = Config(path, values, given)
    output_dir = values.get("output_dir")
    if output_dir is not None and (not isinstance(output_dir, str) or "\0" in output_dir):
        raise UsageError(
            f"{config.at('output_dir')} is not the name of a folder.",
            'Write it as text, for example  output_dir: "./outputs/my-lora"',
        )
    _check_shape(config)
    if not output_dir or not output_dir.strip():
        raise UsageError(
            f"{path}: key output_dir is missing: it names the run's folder.",
            f"Add a line such as  output_dir: work/training/{path.stem}",
        )
    check_answers(Path(output_dir))
    if Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise UsageError(
            f"{config.at('output_dir')} {output_dir} is a file.",
            "Name a folder for the run instead.",
        )
    return config


def check_answers(path: Path) -> None:
    """Check that the disk of what the user named can be looked at.

    Raises:
        LeviathanError: it is a mount that does not answer.
    """
    if mount := mounts.silent(path, _PATIENCE):
        raise LeviathanError(
            f"{mount} does not answer: nothing can be read or written there.",
            "Try again when it does; a training on it waits, and continues then.",
        )


def _check_shape(config: Config) -> None:
    """Refuse values of a wrong type in keys that are used before Axolotl validates them."""
    plugins = config.values.get("plugins")
    if not isinstance(plugins, str | list | None):
        raise UsageError(
            f"{config.at('plugins')} is not a list.",
            f"Write  plugins: [{PLUGIN}]  or leave it out.",
        )
    for key in ("base_model", "adapter", "optimizer", "lr_scheduler"):
        if isinstance(config.values.get(key), list | Mapping):
            raise UsageError(
                f"{config.at(key)} is not a name.", "Give one name, without [ ] or { }."
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


def number(values: Mapping[str, Any], key: str, default: int = 0) -> int:
    """A whole number above 0 of a config, or its default."""
    value = normalise(values.get(key))
    return int(value) if isinstance(value, int) and value > 0 else default


def entries(values: Mapping[str, Any], *keys: str) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """Key, index and content of each entry in lists such as `datasets`."""
    for key in keys:
        found = values.get(key)
        for index, entry in enumerate(found if isinstance(found, list) else ()):
            if isinstance(entry, Mapping):
                yield key, index, entry


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def _parse_override(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if re.search(r"[\[\]]|\.\d+(\.|$)", key):
        raise UsageError(
            f"--set {key}: an entry of a list cannot be set.", "Change it in the config."
        )
    if equals and re.fullmatch(r"[A-Za-z_][\w.-]*", key.strip()) and "-" in key:
        meant = key.strip().replace("-", "_")
        raise UsageError(
            f"--set {key.strip()}: no key has a - in it.",
            f"Did you mean  --set {meant}={quoted(meant, value)}?",
        )
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
    more = ", ..." if len(names) > 5 else ""
    return (
        f"The folder has: {', '.join(names[:5])}{more}." if names else "Name an Axolotl YAML file."
    )
