"""What the installed Axolotl knows of a config, in a process of its own: the import takes seconds.

    python -m leviathan_train.jobs.schema [PLUGIN...]

writes a JSON document to stdout. PLUGIN are plugins that come neither with Axolotl nor with us.

    keys      each key that a config may hold, with the type of its value
    bundled   {folder: {name, keys}}: the plugins below axolotl.integrations
    named     {PLUGIN: {keys}}; {PLUGIN: {unread}} with why its keys are not known; if it cannot be
              loaded {PLUGIN: {error, import}}, `import` telling whether an import failed
    choices   {key: names}: the names that text keys such as `optimizer` may hold
    strategies  {"" or rl: names}: the prompt strategies that `datasets[].type` may name
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from leviathan_train.config.arguments import LeviathanArgs
from leviathan_train.config.schema import bundled_folder
from leviathan_train.jobs.schema_types import ANY, keys_of, spellings

# Read by load_cfg before validation, or set there for all to read (axolotl, cli/config.py).
READ_BY_LOAD_CFG = ("axolotl_config_path", "use_ray")
# What a config says of these is replaced at the launch: Axolotl never sees it.
REPLACED = ("plugins", "resume_from_checkpoint", "strict")
# Put into the config by load_cfg: what a file says there is overwritten.
NOT_FOR_USERS = ("capabilities", "env_capabilities")


def describe(plugins: Sequence[str]) -> dict[str, Any]:
    """The document, as this module's text has it."""
    with without_plugins():
        from axolotl.utils.schemas.config import AxolotlConfigWCapabilities as Core

        core = keys_of(Core)
        bundled = {folder: (name, keys_of(model)) for folder, name, model in bundled_plugins()}
    # The core's validators also look at keys of plugins (liger_cross_entropy); where the
    # plugin is not named, these are dropped like any other.
    of_plugins = {key for _, keys in bundled.values() for key in keys}
    declared = {name for key, field in Core.model_fields.items() for name in spellings(key, field)}
    core = {key: node for key, node in core.items() if key in declared or key not in of_plugins}
    named = {name: named_plugin(name) for name in dict.fromkeys(plugins)}
    for name in always_loaded():
        folder = bundled_folder(name)
        more = bundled[folder][1] if folder in bundled else named_plugin(name).get("keys", {})
        core = more | core  # a plugin's validators read keys of the core too
    core |= keys_of(LeviathanArgs) | dict.fromkeys((*READ_BY_LOAD_CFG, *REPLACED), ANY)
    for key in NOT_FOR_USERS:
        core.pop(key, None)
    return {
        "keys": core,
        "bundled": {
            folder: {"name": name, "keys": {k: v for k, v in keys.items() if k not in core}}
            for folder, (name, keys) in sorted(bundled.items())
        },
        "named": named,
        "choices": choices(),
        "strategies": strategies(),
    }


def package_folder(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    assert spec and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def bundled_plugins() -> Iterator[tuple[str, str, Any]]:
    """Folder, full name and key model of each plugin below axolotl.integrations.

    Found in the source: some need packages that are not installed.
    """
    for folder in sorted(package_folder("axolotl.integrations").iterdir()):
        for file in sorted(folder.glob("*.py")):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and "BasePlugin" in map(ast.unparse, node.bases):
                    name = f"axolotl.integrations.{folder.name}.{node.name}"
                    yield folder.name, name, key_model(node)


def key_model(plugin: ast.ClassDef) -> Any:
    """The pydantic model that a plugin's `get_input_args` names; None if it has none."""
    for node in ast.walk(plugin):
        if isinstance(node, ast.FunctionDef) and node.name == "get_input_args":
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Constant):
                    return model_named(str(inner.value.value))
    return None


def model_named(name: str) -> Any:
    """A class by its full name; also where a package only passes it on from its `args`."""
    module, _, cls = name.rpartition(".")
    found = getattr(importlib.import_module(module), cls, None)
    return found or getattr(importlib.import_module(f"{module}.args"), cls)


@contextlib.contextmanager
def without_plugins() -> Iterator[None]:
    """Let modules below axolotl.integrations be imported without their packages' `__init__`.

    These load the plugins and with them peft and the trainer: 7 s for a list of keys.
    """
    folders = [path for path in package_folder("axolotl.integrations").iterdir() if path.is_dir()]
    bare = {f"axolotl.integrations.{folder.name}": folder for folder in folders}
    bare = {name: folder for name, folder in bare.items() if name not in sys.modules}
    for name, folder in bare.items():
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]
    try:
        yield
    finally:
        for name in bare:
            del sys.modules[name]


def named_plugin(name: str) -> dict[str, Any]:
    """The keys of a plugin of others, which is loaded as Axolotl would load it."""
    from axolotl.integrations.base import load_plugin

    try:
        plugin = load_plugin(name)
    except Exception as error:  # whatever a plugin raises while it is imported
        return {"error": _told(error), "import": isinstance(error, ImportError)}
    try:
        args = plugin.get_input_args()
        module, _, cls = str(args or "").rpartition(".")
        return {"keys": keys_of(getattr(importlib.import_module(module), cls)) if args else {}}
    except Exception as error:  # as above
        return {"unread": _told(error)}


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def always_loaded() -> set[str]:
    """The plugins that Axolotl loads without being told to, as its `get_builtin_plugins` has them.

    Since 0.20 (integrations/base.py): a constant there, read from the source, and entry points.
    """
    source = (package_folder("axolotl.integrations") / "base.py").read_text(encoding="utf-8")
    named = {
        item.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "BUILTIN_PLUGINS"
        for item in ast.walk(node.value)
        if isinstance(item, ast.Constant)
    }
    points = importlib.metadata.entry_points(group="axolotl.plugins") if named else ()
    return {*map(str, named), *(point.value.replace(":", ".") for point in points)}


def choices() -> dict[str, list[str]]:
    """The names that a training accepts where Axolotl's schema takes any text.

    Axolotl hands the text to transformers' TrainingArguments (core/builders/base.py,
    `_configure_optimizer` and `_configure_scheduler`), which asks these enums.
    """
    arguments, trainer = "training_args.py", "trainer_utils.py"
    from axolotl.utils.schemas import enums

    own = [item.value for item in enums.CustomSupportedOptimizers]
    found = {
        # a field validator asks this set (utils/schemas/config.py, `validate_attn_implementation`)
        "attn_implementation": sorted(getattr(enums, "CANONICAL_ATTN_IMPLS", ())),
        "optimizer": enum_values(arguments, "OptimizerNames", own),
        "lr_scheduler": enum_values(trainer, "SchedulerType", ["one_cycle", "rex"]),
        "save_strategy": enum_values(trainer, "SaveStrategy"),
        "eval_strategy": enum_values(trainer, "IntervalStrategy"),
    }
    return {key: names for key, names in found.items() if names}


def enum_values(file: str, name: str, more: Sequence[str] = ()) -> list[str]:
    """The strings of an enum in transformers, from its source: the import takes 5 s.

    Returns:
        Them and `more`; none at all where the source holds no such enum.
    """
    tree = ast.parse((package_folder("transformers") / file).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            values = [item.value for item in node.body if isinstance(item, ast.Assign)]
            words = [item.value for item in values if isinstance(item, ast.Constant)]
            if words and len(words) == len(values):
                return [*map(str, words), *more]
    return []


def strategies() -> dict[str, list[str]]:
    """The prompt strategies by kind of training; the empty one is supervised fine-tuning.

    From axolotl, prompt_strategies/__init__.py (`load`) and utils/data/wrappers.py.
    """
    package = package_folder("axolotl.prompt_strategies")
    tree = ast.parse((package.parent / "utils/data/wrappers.py").read_text(encoding="utf-8"))
    handled = [
        key.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        for key in node.value.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    ]
    by_kind = {kind: modules_in(package / kind) for kind in ("dpo", "kto", "orpo")}
    return {"": sorted({*handled, *modules_in(package)}), **by_kind}


def modules_in(folder: Path) -> list[str]:
    """The names of the modules and packages in a folder."""
    found = [*folder.glob("*.py"), *(path.parent for path in folder.glob("*/__init__.py"))]
    return sorted({path.stem for path in found} - {"__init__"})


def main() -> None:
    # Whatever libraries print while they are imported goes to stderr.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with contextlib.redirect_stdout(sys.stderr):
        document = describe(sys.argv[1:])
    with answer:
        json.dump(document, answer, separators=(",", ":"), sort_keys=True)


if __name__ == "__main__":
    main()
