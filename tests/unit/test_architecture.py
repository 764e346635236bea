"""The shape of the source: small parts, a light command line, private names in one place.

The order in which rooms may import each other is kept by import-linter (pyproject.toml).
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "leviathan_train"
MODULES = {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}
DRAWING = {"PIL", "matplotlib", "numpy"}
HEAVY = {"torch", "transformers", "peft", "accelerate", "axolotl", "datasets", "safetensors"}

LONGEST_MODULE = 350
LONGEST_CLASS = 200

UPSTREAM = {"trainer/upstream.py", "jobs/merge_upstream.py"}
"""The modules that may touch what other libraries call their own."""

DOCUMENTED = {
    "accelerate",
    "axolotl.cli.config",  # with the next ones: what any plugin or command of Axolotl starts from
    "axolotl.integrations.base",
    "axolotl.utils.config",
    "axolotl.utils.dict",
    "axolotl.utils.schemas",  # of a config, from which Axolotl makes its reference
    "axolotl.utils.schemas.config",
    "bitsandbytes",
    "bitsandbytes.nn",
    "datasets",
    "peft",
    "safetensors",
    "safetensors.torch",
    "torch",
    "torch.distributed",
    "torch.distributed.checkpoint",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.tensor",
    "torch.utils.data",
    "torch.utils.tensorboard",
    "transformers",
    "transformers.integrations",
    "transformers.trainer_callback",
    "transformers.utils",
}
"""The modules that their libraries document for others; every other one may move at any time."""

KEYS_OF_FILES = {"_name_or_path", "_synthetic"}
"""Words of model configs and YAML files that look like private names of Python."""


def parse(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def length(node: ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_modules_and_classes_are_short() -> None:
    found = set()
    for name, path in MODULES.items():
        if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_MODULE:
            found.add(name)
        for node in ast.walk(parse(name)):
            if isinstance(node, ast.ClassDef) and length(node) > LONGEST_CLASS:
                found.add(f"{name}:{node.name}")
    assert not found


def test_no_room_is_a_drawer_for_what_has_no_place() -> None:
    parts = {part.removesuffix(".py") for name in MODULES for part in Path(name).parts}
    assert not parts & {"common", "helpers", "misc", "util", "utils"}


def own_names(tree: ast.Module) -> set[str]:
    """What a module defines: functions, classes, variables, and attributes of `self`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            owner, _, name = ast.unparse(node).rpartition(".")
            if owner in ("", "self"):
                found.add(name)
    return found


def modules_imported(node: ast.Import | ast.ImportFrom) -> set[str]:
    """The modules that an import statement needs, `from a import b` counted as a."""
    if isinstance(node, ast.ImportFrom):
        return {node.module or ""}
    return {alias.name for alias in node.names}


def private_names(tree: ast.Module) -> Iterator[str]:
    """Names of other libraries that are private, or of modules that they do not document.

    An attribute with a leading underscore is private unless the module defines it itself: so
    is `trainer._save_checkpoint`, whoever holds the trainer. The same name as a string counts,
    for `getattr` and for keys of a state.
    """
    own = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            # `os._exit` is documented, the underscore only warns.
            if re.fullmatch(r"_[a-z]\w*", node.attr) and node.attr not in own | {"_exit"}:
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"_[a-z]\w*", node.value) and node.value not in own | KEYS_OF_FILES:
                yield f"line {node.lineno}: {node.value!r}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for module in modules_imported(node):
                foreign = module.partition(".")[0] in HEAVY | {"bitsandbytes"}
                if foreign and module not in DOCUMENTED:
                    yield f"line {node.lineno}: import of {module}"
            for alias in node.names:
                if isinstance(node, ast.ImportFrom) and re.match(r"_[a-z]", alias.name):
                    yield f"line {node.lineno}: import of {alias.name}"


def test_private_names_of_other_libraries_stand_in_one_place() -> None:
    found = {name: list(private_names(parse(name))) for name in MODULES.keys() - UPSTREAM}
    found = {name: lines for name, lines in found.items() if lines}
    shown = "\n".join(f"{name} {line}" for name in sorted(found) for line in found[name])
    assert not found, shown


@pytest.mark.parametrize(
    "line",
    [
        "trainer._save_checkpoint()",
        "self.trainer._tr_loss = loss",
        "getattr(scheduler, '_step_count')",
        "from transformers.trainer import Trainer",
        "import axolotl.train",
        "from peft import _internal",
    ],
)
def test_a_private_name_is_seen(line: str) -> None:
    assert list(private_names(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "import os\nos._exit(1)",
        "class A:\n    def _own(self): pass\ndef use(one): one._own()",
        "class A:\n    def __init__(self): self._own = 1\n    def of(self, one): one._own",
        "from transformers import TrainerCallback",
        "value.__class__.__name__",
    ],
)
def test_a_name_of_our_own_is_no_private_name(line: str) -> None:
    assert not list(private_names(ast.parse(line)))


@pytest.mark.parametrize(
    "command", [[], ["train"], ["checkpoints", "list"], ["merge"], ["check"], ["plot"]]
)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys\n"
        "from leviathan_train.cli import main\n"
        f"try: main({[*command, '--help']!r})\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        f"loaded = {HEAVY | DRAWING!r} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout or not command or command == ["checkpoints"]
    assert "Exit status" in done.stdout
