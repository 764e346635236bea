"""What the trainer does where a library is not as it was: it names it, before a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.demo import MakeConfig
from support.driver import start

pytestmark = pytest.mark.train

SPOILED = {
    "a hook is missing": (
        "import transformers; del transformers.Trainer._determine_best_metric",
        "transformers.Trainer._determine_best_metric is missing",
    ),
    "a hook takes something else": (
        "import transformers\n"
        "def save(self, folder): pass\n"
        "transformers.Trainer._save_checkpoint = save",
        "transformers.Trainer._save_checkpoint takes self, folder",
    ),
}


@pytest.mark.axolotl
@pytest.mark.parametrize("case", SPOILED)
def test_a_hook_that_is_not_as_it_was_is_named_before_a_step(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path, case: str
) -> None:
    spoil, told = SPOILED[case]
    site = tmp_path / "site"
    site.mkdir()
    # Only in the trainer: its plugin is asked for, and the libraries are there.
    (site / "spoil.py").write_text(
        "from axolotl.integrations.base import BasePlugin\n"
        f"{spoil}\n"
        "class Spoil(BasePlugin): pass\n"
    )
    config = make_config(
        tmp_path, plugins=["spoil.Spoil", "leviathan_train.plugin.LeviathanPlugin"]
    )
    status, output = start(config, env=env | {"PYTHONPATH": str(site)}).finish()
    assert status == 2, output
    assert told in output
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_an_axolotl_that_is_newer_than_the_tested_ones_is_told_and_trains(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "newer.py").write_text(
        "import importlib.metadata as m\n"
        "from axolotl.integrations.base import BasePlugin\n"
        "known = m.version\n"
        "m.version = lambda name: '0.99.0' if name == 'axolotl' else known(name)\n"
        "class Newer(BasePlugin): pass\n"
    )
    config = make_config(
        tmp_path, max_steps=2, plugins=["newer.Newer", "leviathan_train.plugin.LeviathanPlugin"]
    )
    status, output = start(config, env=env | {"PYTHONPATH": str(site)}).finish()
    assert status == 0, output
    assert "axolotl 0.99.0 has not been tested yet" in output
