"""What Axolotl knows is asked once and kept, and asked again when what it hangs on changes."""

from __future__ import annotations

import importlib.machinery
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from leviathan_train.config import schema
from leviathan_train.config.load import PLUGIN
from leviathan_train.errors import LeviathanError

ANSWER = {
    "axolotl": "0",
    "keys": {"lora_r": {"type": "int"}},
    "bundled": {
        "liger": {"name": "axolotl.integrations.liger.LigerPlugin", "keys": {"liger_rope": {}}}
    },
    "named": {},
    "choices": {},
    "strategies": {},
}
OTHERS = """
import pathlib
from pydantic import BaseModel
from axolotl.integrations.base import BasePlugin

class Args(BaseModel):
    {key}: int | None = None

class Plugin(BasePlugin):
    def get_input_args(self):
        return "{module}.Args"
"""


class Told:
    """Counts how often Axolotl was asked."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a job that answers at once."""
    job = tmp_path / "quick_job.py"
    job.write_text(f"import json\nprint(json.dumps({ANSWER!r}))\n")
    monkeypatch.setattr(schema, "JOB", "quick_job")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "leviathan" / "schema"


def test_axolotl_is_asked_once(store: Path) -> None:
    told = Told()
    first, second = schema.ask([PLUGIN], told), schema.ask([PLUGIN], told)
    assert first == second
    assert len(told.lines) == 1
    assert len(list(store.iterdir())) == 1


def test_a_bundled_plugin_is_no_new_question(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "others.py").write_text("")
    told = Told()
    without = schema.ask([PLUGIN], told)
    named = schema.ask([PLUGIN, "axolotl.integrations.liger:LigerPlugin"], told)
    assert len(told.lines) == 1
    assert "liger_rope" in named.keys.keys() - without.keys.keys()
    assert [plugin.name for plugin in without.others] == ["axolotl.integrations.liger.LigerPlugin"]
    assert named.is_complete
    assert not schema.ask([PLUGIN, "others.Plugin"], told).is_complete
    assert len(told.lines) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": 1}', '{"answer": {}}', "\0"])
def test_a_broken_cache_is_replaced(store: Path, content: str) -> None:
    expected = schema.ask([PLUGIN])
    (file,) = store.iterdir()
    file.write_text(content)
    assert schema.ask([PLUGIN]) == expected
    assert json.loads(file.read_text())["answer"] == ANSWER


def test_a_cache_that_cannot_be_written_costs_only_time(
    store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    told = Told()
    assert schema.ask([PLUGIN], told) == schema.ask([PLUGIN], told)
    assert len(told.lines) == 2


def test_another_version_is_another_question(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema.ask([PLUGIN])
    monkeypatch.setattr(schema, "__version__", "99")
    told = Told()
    schema.ask([PLUGIN], told)
    assert len(told.lines) == 1
    assert len(list(store.iterdir())) == 2


def test_old_answers_go(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(schema.KEPT + 3):
        monkeypatch.setattr(schema, "__version__", str(number))
        schema.ask([PLUGIN])
    assert len(list(store.iterdir())) == schema.KEPT
    told = Told()
    schema.ask([PLUGIN], told)
    assert told.lines == []


def test_starts_at_the_same_time_do_not_disturb_each_other(store: Path) -> None:
    answers: list[schema.Schema] = []
    threads = [
        threading.Thread(target=lambda: answers.append(schema.ask([PLUGIN]))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert all(answer == answers[0] for answer in answers)
    assert [file.suffix for file in store.iterdir()] == [".json"]


def test_a_job_that_fails_is_told_with_its_last_line(store: Path, tmp_path: Path) -> None:
    (tmp_path / "quick_job.py").write_text("raise ImportError('no torch here')")
    with pytest.raises(LeviathanError, match="ImportError: no torch here"):
        schema.ask([PLUGIN])
    assert not store.exists()


def test_a_changed_plugin_of_others_is_asked_again(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "others"
    package.mkdir()
    for name in ("__init__.py", "plugin.py", "args.py"):
        (package / name).write_text("")
    told = Told()
    for _ in range(2):
        schema.ask([PLUGIN, "others.plugin.Plugin"], told)
    assert len(told.lines) == 1
    os.utime(package / "args.py", (1, 1))
    schema.ask([PLUGIN, "others.plugin.Plugin"], told)
    assert len(told.lines) == 2


def test_the_keys_of_a_plugin_of_others_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "others_plugin.py").write_text(
        OTHERS.format(key="other_key", module="others_plugin")
    )
    known = schema.ask([PLUGIN, "others_plugin.Plugin"])
    assert known.keys["other_key"] == {"type": "nullable", "schema": {"type": "int"}}
    assert not known.is_complete
    assert not known.failed


@pytest.mark.parametrize(
    ("plugin", "why", "is_import"),
    [
        ("./mine.Plugin", "it is no MODULE.CLASS", False),
        ("Plugin", "it is no MODULE.CLASS", False),
        ("nowhere.Plugin", "there is no nowhere", True),
        ("axolotl.integrations.ligr.LigerPlugin", "there is no axolotl.integrations.ligr", True),
        ("axolotl.integrations.liger.LigrPlugin", "integrations.liger has no LigrPlugin", False),
        ("liger:LigrPlugin", "axolotl.integrations.liger has no LigrPlugin", False),
        ("leviathan_train.plugin.Plugin", f"leviathan_train has only {PLUGIN}", False),
    ],
)
def test_a_plugin_that_is_not_there_is_told_without_a_question(
    plugin: str, why: str, is_import: bool
) -> None:
    known = schema.ask([PLUGIN, plugin])
    ((name, failure),) = known.failed.items()
    assert name == plugin.replace(":", ".") and failure.why.endswith(why)
    assert failure.is_import == is_import
    assert not known.is_complete and not known.knows_all


def test_a_plugin_that_cannot_be_loaded_is_told_with_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty_plugin.py").write_text("")
    (tmp_path / "broken_plugin.py").write_text("import nowhere")
    # The last is of the library that is called so, which Axolotl would import, too.
    names = ["empty_plugin.Plugin", "broken_plugin.Plugin", "kernels.KernelsPlugin"]
    failed = schema.ask([PLUGIN, *names]).failed
    assert [failed[name].is_import for name in names] == [False, True, False]
    whys = [
        "'empty_plugin' has no attribute 'Plugin'",
        "No module named 'nowhere'",
        "'kernels' has",
    ]
    for name, why in zip(names, whys, strict=True):
        assert why in failed[name].why


def test_plugins_of_the_users_own_may_be_called_as_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kd").mkdir()
    for module in ("kd.plugin", "leviathan_train_mine", "shy"):
        own = OTHERS.format(key=f"{module.split('.')[0]}_own", module=module)
        file = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        file.write_text(own.replace("shy.Args", "nowhere.Args"))
    known = schema.ask([PLUGIN, "kd.plugin.Plugin", "leviathan_train_mine.Plugin"])
    assert not known.failed and known.knows_all
    assert {"kd_own", "leviathan_train_mine_own"} <= known.keys.keys()
    assert "kd_ce_alpha" not in known.keys, "nor are its keys those of Axolotl's kd"
    known = schema.ask([PLUGIN, "shy.Plugin"])
    assert not known.failed and not known.knows_all, "its keys cannot be read"


def test_a_module_of_an_editable_installation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hook:
        """As setuptools installs one, which no path knows."""

        def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
            known = name == "editable_plugin"
            return importlib.machinery.ModuleSpec(name, None) if known else None

    assert "editable_plugin.Plugin" in schema.ask([PLUGIN, "editable_plugin.Plugin"]).failed
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Hook()])
    assert schema._missing("editable_plugin.Plugin") is None


def test_a_plugin_that_failed_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = OTHERS.format(key="late", module="late_plugin")
    (tmp_path / "late_plugin.py").write_text(f"import late_dependency\n{own}")
    assert schema.ask([PLUGIN, "late_plugin.Plugin"]).failed
    (tmp_path / "late_dependency.py").write_text("")
    assert schema.ask([PLUGIN, "late_plugin.Plugin"]).failed, "once in each process"
    monkeypatch.setattr(schema, "_failed_answers", {})
    assert not schema.ask([PLUGIN, "late_plugin.Plugin"]).failed


def test_the_command_line_imports_no_pydantic_before_it_judges() -> None:
    code = (
        "import sys\nimport leviathan_train.cli.train, leviathan_train.cli.check\n"
        "print({'pydantic', 'pydantic_core'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
