"""What the installed Axolotl knows of a config: asked of it once, in a child, then kept.

The answer (`jobs/schema.py` describes it) lies in the user's cache, one file for each state of
what it hangs on: Axolotl, Python, our own keys, and the plugins that come from elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leviathan_train import __version__
from leviathan_train.config.load import PLUGIN
from leviathan_train.errors import LeviathanError
from leviathan_train.system import places
from leviathan_train.system.files import read_object, write_text

JOB = "leviathan_train.jobs.schema"
TIMEOUT = 300.0
KEPT = 16
"""Answers in the cache; with one more, the oldest goes."""

INTEGRATIONS = "axolotl.integrations."
_failed_answers: dict[str, dict[str, Any]] = {}
"""The answers of this process that name a plugin which cannot be loaded, by their state."""

Node = Mapping[str, Any]
"""The type of a value: a schema of pydantic_core."""
_UNCHECKED = {"unchecked": True}


@dataclass(frozen=True)
class Bundled:
    """A plugin that comes with Axolotl: its full name, and the keys it adds."""

    name: str
    keys: Mapping[str, Node]


@dataclass(frozen=True)
class Failure:
    """Why a plugin cannot be loaded.

    Attributes:
        is_import: it cannot be imported; Axolotl says so in its log, and trains without it.
    """

    why: str
    is_import: bool


@dataclass(frozen=True)
class Schema:
    """What Axolotl knows, with one config's plugins.

    Attributes:
        keys: each key that counts, with its type.
        bundled: the full names of the plugins that come with Axolotl.
        others: those of them that the config does not name.
        is_complete: no plugin of others may change a value before it is judged.
        failed: the plugins that cannot be loaded.
        knows_all: whether the keys of all named plugins are among them.
        choices: the names that a text key may hold, where its type is any text.
        strategies: the prompt strategies; by `rl`, "" for supervised fine-tuning.
    """

    keys: Mapping[str, Node]
    bundled: Sequence[str]
    others: Sequence[Bundled]
    is_complete: bool
    failed: Mapping[str, Failure]
    knows_all: bool
    choices: Mapping[str, Sequence[str]]
    strategies: Mapping[str, Sequence[str]]


def ask(plugins: Iterable[str], tell: Callable[[str], None] = lambda line: None) -> Schema:
    """What the installed Axolotl knows of a config that names these plugins.

    Takes some milliseconds if the answer is in the cache, else some seconds. A cache that
    cannot be read or written only costs these seconds.

    Args:
        tell: called with one line before the seconds begin.

    Raises:
        LeviathanError: Axolotl cannot be asked; the message says why.
    """
    named = [name.replace(":", ".") for name in plugins]  # one name, for axolotl 0.21
    failed = {name: why for name in named if (why := _missing(name))}
    chosen = {bundled_folder(name) for name in named if _is_bundled(name)}
    ours = {name for name in named if _is_bundled(name) or name == PLUGIN}
    strangers = sorted(set(named) - ours - failed.keys())
    document = _document(tuple(strangers), tell)
    bundled = {folder: Bundled(**entry) for folder, entry in document["bundled"].items()}
    of_others = document["named"].items()
    failed |= {name: Failure(of["error"], of["import"]) for name, of in of_others if "error" in of}
    keys = dict(document["keys"])
    for folder in chosen & bundled.keys():
        keys = {**bundled[folder].keys, **keys}
    for _, entry in of_others:
        keys = {**entry.get("keys", {}), **keys}
    return Schema(
        keys=keys,
        bundled=[plugin.name for plugin in bundled.values()],
        others=[plugin for folder, plugin in bundled.items() if folder not in chosen],
        is_complete=not strangers and not failed,
        failed=failed,
        knows_all=not failed and not any("unread" in entry for _, entry in of_others),
        choices=document["choices"],
        strategies=document["strategies"],
    )


def fields(node: Node) -> tuple[dict[str, list[Node]], bool]:
    """The keys that a value of this type may hold, and whether any others may stand beside.

    Each key with its type in every branch of a union; items of lists count as the list.
    """
    kind = node["type"]
    if kind == "typed-dict":
        known = {key: [field["schema"]] for key, field in node["fields"].items()}
        return known, node["metadata"]["free"]
    if kind in {"any", "dict"}:
        return {}, node.get("metadata") != _UNCHECKED
    inner = [node[part] for part in ("schema", "items_schema") if part in node]
    merged: dict[str, list[Node]] = {}
    free = False
    for branch in [*inner, *node.get("choices", ())]:
        known, any_key = fields(branch)
        free = free or any_key
        for key, types in known.items():
            merged.setdefault(key, []).extend(types)
    return merged, free


def holds_list(node: Node) -> bool:
    """Whether a value of this type is a list."""
    branches = [*node.get("choices", ()), *([node["schema"]] if "schema" in node else [])]
    return node["type"] == "list" or any(map(holds_list, branches))


def bundled_folder(plugin: str) -> str:
    """The folder below axolotl.integrations of a bundled plugin.

    Axolotl also takes `liger.LigerPlugin` (integrations/base.py, `load_plugin`).
    """
    return plugin.removeprefix(INTEGRATIONS).split(".")[0]


def _missing(plugin: str) -> Failure | None:
    """What a plugin's name names that is not there, as far as its files tell."""
    module, _, name = plugin.rpartition(".")
    if not re.fullmatch(r"\w+(\.\w+)+", plugin):
        return Failure("it is no MODULE.CLASS", is_import=False)
    if module.split(".")[0] == "leviathan_train":
        there = plugin == PLUGIN
        return None if there else Failure(f"leviathan_train has only {PLUGIN}", is_import=False)
    part = bundled_folder(plugin)
    if not _is_bundled(plugin):
        is_file = f"{part}.py" in _bundled_folders()
        outside = not module.startswith(INTEGRATIONS) and _is_there(module.split(".")[0])
        known = is_file or outside
        return None if known else Failure(f"there is no {module}", is_import=True)
    package = _package("axolotl")
    assert package  # it has the folder
    word = re.compile(rf"\b{re.escape(name)}\b")
    files = (package / "integrations" / part).rglob("*.py")
    if any(word.search(file.read_text("utf-8", "replace")) for file in files):
        return None
    return Failure(f"{INTEGRATIONS}{part} has no {name}", is_import=False)


def _is_bundled(plugin: str) -> bool:
    """Whether a plugin is one of Axolotl's own.

    `liger.LigerPlugin` is one only where no module is called `liger` (`load_plugin` there).
    """
    if bundled_folder(plugin) not in _bundled_folders():
        return False
    return plugin.startswith(INTEGRATIONS) or not _is_there(plugin.split(".")[0])


def _is_there(name: str) -> bool:
    """Whether a top-level module can be found, by the hooks of editable installations too."""
    if _find(name) is not None:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _package(name: str) -> Path | None:
    """The folder of an installed top-level package, which is not imported."""
    spec = importlib.util.find_spec(name)
    found = spec.submodule_search_locations if spec else None
    return Path(next(iter(found))) if found else None


def _bundled_folders() -> set[str]:
    package = _package("axolotl")
    integrations = package / "integrations" if package else None
    return set(os.listdir(integrations)) if integrations and integrations.is_dir() else set()


def _document(strangers: Sequence[str], tell: Callable[[str], None]) -> dict[str, Any]:
    """The job's answer, from the cache or asked anew."""
    state = _state(strangers)
    digest = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:20]
    file = places.cache() / "schema" / f"{digest}.json"
    kept = read_object(file)
    if kept.get("state") == state:
        return dict(kept["answer"])
    if digest in _failed_answers:
        return _failed_answers[digest]
    tell("Asking Axolotl which keys it knows: some seconds, once for each version of it.")
    answer = _run_job(strangers)
    if any("error" in entry for entry in answer["named"].values()):
        _failed_answers[digest] = answer  # what it lacks may be there at the next start
        return answer
    with contextlib.suppress(OSError):
        write_text(file, json.dumps({"state": state, "answer": answer}))
        for old in sorted(file.parent.glob("*.json"), key=lambda one: -one.stat().st_mtime)[KEPT:]:
            old.unlink()
    return answer


def _state(strangers: Sequence[str]) -> list[Any]:
    """What the answer hangs on; another state is another question.

    The folder that Axolotl is installed in changes with every package that comes or goes
    there, and so with the libraries that it asks.
    """
    package = _package("axolotl")
    watched = [
        Path(__file__).with_name("arguments.py"),
        *sorted(Path(__file__).parents[1].glob("jobs/schema*.py")),
    ]
    if package:
        watched += [package.parent, *sorted((package / "utils" / "schemas").glob("*.py"))]
    for name in strangers:
        watched += _modules_of(name)
    times = []
    for path in watched:
        with contextlib.suppress(OSError):
            times.append([str(path), path.stat().st_mtime_ns])
    try:
        version = importlib.metadata.version("axolotl")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return [__version__, version, platform.python_version(), list(strangers), times]


def _modules_of(plugin: str) -> list[Path]:
    """The files of a plugin's package, whose keys may stand in any of them."""
    parts = plugin.split(".")[:-1]
    spec = _find(parts[0])
    if spec is None:
        return []
    found = [Path(spec.origin)] if spec.origin else []
    folder = Path(next(iter(spec.submodule_search_locations or ()), os.devnull))
    for part in [*parts[1:], ""]:
        found += sorted(folder.glob("*.py"))
        folder /= part
    return found


def _find(name: str) -> importlib.machinery.ModuleSpec | None:
    """A top-level module as `python -m axolotl.cli.train` looks for it."""
    return importlib.machinery.PathFinder.find_spec(name, [os.getcwd(), *sys.path])


def _run_job(strangers: Sequence[str]) -> dict[str, Any]:
    quiet = {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    argv = [sys.executable, "-m", JOB, *strangers]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=TIMEOUT, env=os.environ | quiet
        )
        answer = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        failed = isinstance(error, ValueError) and done.stderr.strip()
        reason = (
            done.stderr.strip().splitlines()[-1] if failed else f"{type(error).__name__}: {error}"
        )
        raise LeviathanError(
            f"Axolotl cannot be asked which keys it knows: {reason}",
            f"See it all with:  {sys.executable} -m {JOB}",
        ) from None
    return dict(answer)
