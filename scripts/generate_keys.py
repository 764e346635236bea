#!/usr/bin/env python3
"""Write src/leviathan_train/config/axolotl_keys.json: every key that the installed Axolotl knows.

    python scripts/generate_keys.py            writes the file
    python scripts/generate_keys.py --check    exit 1 if the file is not current

A path names each key: `lora_r`, `trl.beta`, `datasets[].path`; `.*` at its end stands for a
dictionary of any keys. Names count as known that Axolotl

- has in its schema, aliases included (`model_type` and `type_of_model` are one key);
- reads from the config as written, in validators that run before the schema drops the rest;
- gets from one of its own plugins, which has to be named in `plugins`.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import pkgutil
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "src/leviathan_train/config/axolotl_keys.json"

# Read by axolotl/cli/config.py (`load_cfg`) before validation, or set there for all to read.
READ_BY_LOAD_CFG = {"axolotl_config_path", "plugins", "strict", "use_ray"}
# Taken off before validation (utils/schemas/validation.py, `check_fsdp_config_kwargs_prefix`).
FSDP, FSDP_PREFIX = "fsdp_config.", "fsdp_"
# Put into the config by `load_cfg` itself: what a file says there is overwritten.
NOT_FOR_USERS = {"capabilities", "env_capabilities"}


def paths_of(model: Any, prefix: str = "") -> Iterator[str]:
    """The path of each key of a pydantic model, nested models and aliases included."""
    for name, field in model.model_fields.items():
        for spelling in spellings(name, field):
            path = prefix + spelling
            yield path
            models, lists, free = parts_of(field.annotation)
            if free:
                yield f"{path}.*"
            for nested in models:
                yield from paths_of(nested, f"{path}{'[]' if lists else ''}.")
    for key in read_before_validation(model):
        yield prefix + key


def spellings(name: str, field: Any) -> set[str]:
    """Every name under which a field may be written."""
    found = {name}
    for alias in (field.alias, field.validation_alias):
        if isinstance(alias, str):
            found.add(alias)
        for choice in getattr(alias, "choices", ()):
            if isinstance(choice, str):
                found.add(choice)
    return found


def parts_of(annotation: Any) -> tuple[list[Any], bool, bool]:
    """The models in a type, whether they stand in a list, and whether any keys may come."""
    from pydantic import BaseModel

    if annotation is Any or annotation is dict:
        return [], False, True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        free = annotation.model_config.get("extra") == "allow"
        return [annotation], False, free
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return [], False, False
    if origin is dict:
        return [], False, True
    models: list[Any] = []
    lists = origin is list
    free = False
    for part in typing.get_args(annotation):
        inner, in_list, any_keys = parts_of(part)
        models += inner
        lists = lists or (in_list and bool(inner))
        free = free or (any_keys and origin is not list)
    return models, lists, free


def read_before_validation(model: Any) -> set[str]:
    """The keys that a model's `mode="before"` validators read from what the user wrote."""
    found: set[str] = set()
    for decorator in model.__pydantic_decorators__.model_validators.values():
        if decorator.info.mode == "before":
            found |= keys_read(getattr(decorator.func, "__func__", decorator.func))
    return found - NOT_FOR_USERS


def keys_read(function: Any) -> set[str]:
    """String constants that a function asks its second argument, the raw data, for."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    arguments = [argument.arg for argument in definition.args.args]
    data = arguments[1] if arguments[:1] == ["cls"] else arguments[0]
    # Names given to lists of keys, as in: for k in kernel_fields: data.get(k)
    lists: dict[str, set[str]] = {}
    for node in ast.walk(definition):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Tuple):
            words = {item.value for item in node.value.elts if isinstance(item, ast.Constant)}
            for target in node.targets:
                if isinstance(target, ast.Name):
                    lists[target.id] = {word for word in words if isinstance(word, str)}
    loops: dict[str, set[str]] = {}
    for node in ast.walk(definition):
        if isinstance(node, ast.For | ast.comprehension):
            words = set()
            if isinstance(node.iter, ast.Name):
                words = lists.get(node.iter.id, set())
            elif isinstance(node.iter, ast.List | ast.Tuple):
                words = {item.value for item in node.iter.elts if isinstance(item, ast.Constant)}
            if isinstance(node.target, ast.Name):
                loops[node.target.id] = words

    def words_of(node: ast.expr) -> set[str]:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return {node.value}
        return loops.get(node.id, set()) if isinstance(node, ast.Name) else set()

    def is_data(node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id == data

    found: set[str] = set()
    for node in ast.walk(definition):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if is_data(node.func.value) and node.func.attr in {"get", "pop"}:
                found |= words_of(node.args[0])
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            if is_data(node.comparators[0]):
                found |= words_of(node.left)
        elif (
            isinstance(node, ast.Subscript)
            and is_data(node.value)
            and not isinstance(node.ctx, ast.Store)
        ):
            found |= words_of(node.slice)
    return found


def plugins() -> Iterator[tuple[str, str, Any]]:
    """Folder, full name and key model of each plugin below axolotl.integrations.

    Found in the source: some need packages that are not installed.
    """
    import axolotl.integrations

    for info in pkgutil.iter_modules(axolotl.integrations.__path__):
        folder = Path(axolotl.integrations.__path__[0]) / info.name
        for file in sorted(folder.glob("*.py")):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if not isinstance(node, ast.ClassDef):
                    continue
                if "BasePlugin" not in {base.id for base in node.bases if hasattr(base, "id")}:
                    continue
                name = f"axolotl.integrations.{info.name}.{node.name}"
                yield info.name, name, key_model(folder, node)


def key_model(folder: Path, plugin: ast.ClassDef) -> Any:
    """The pydantic model that a plugin's `get_input_args` names; None if it has none."""
    for node in ast.walk(plugin):
        if isinstance(node, ast.FunctionDef) and node.name == "get_input_args":
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Constant):
                    return model_named(folder, str(inner.value.value))
    return None


def model_named(folder: Path, name: str) -> Any:
    module_name, _, cls = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), cls)
    except ImportError:  # the plugin beside it needs more than its keys do
        spec = importlib.util.spec_from_file_location(f"{folder.name}_args", folder / "args.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return getattr(module, cls)


def generate() -> dict[str, Any]:
    """The document: paths of the core, and of each plugin beyond them."""
    from axolotl.utils.schemas.config import AxolotlConfigWCapabilities as Core

    core = {path for path in paths_of(Core) if path.split(".")[0] not in NOT_FOR_USERS}
    core |= {path.replace(FSDP, FSDP + FSDP_PREFIX, 1) for path in core if path.startswith(FSDP)}
    schema = {name for key, field in Core.model_fields.items() for name in spellings(key, field)}
    found = {
        folder: (name, set(paths_of(model)) if model else set())
        for folder, name, model in plugins()
    }
    # The core's validators also look at keys of plugins (liger_cross_entropy); where the
    # plugin is not named, these are dropped like any other.
    of_plugins = {path for _, keys in found.values() for path in keys}
    borrowed = {path for path in core & of_plugins if path not in schema and "." not in path}
    known = core - borrowed | READ_BY_LOAD_CFG
    return {
        "axolotl": importlib.metadata.version("axolotl"),
        "keys": sorted(known),
        "plugins": {
            folder: {"name": name, "keys": sorted(keys - known)}
            for folder, (name, keys) in sorted(found.items())
        },
    }


def render(document: dict[str, Any]) -> str:
    """The document as the file holds it: one key a line, so that a change can be reviewed."""
    return json.dumps(document, indent=0) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the list of the keys Axolotl knows.")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--output", type=Path, default=TARGET)
    options = parser.parse_args()
    os.environ.setdefault("AXOLOTL_DO_NOT_TRACK", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    text = render(generate())
    if options.check:
        if options.output.read_text(encoding="utf-8") != text:
            print(f"{options.output} is not current. Run: python {sys.argv[0]}")
            return 1
        return 0
    options.output.write_text(text, encoding="utf-8")
    print(f"{options.output}: {len(text)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
