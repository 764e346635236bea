"""The Axolotl plugin: a pause that is a full checkpoint, a save that is sealed, a resume
that is exact. It lives in the trainer's process, on every rank.

Named in a config's `plugins`, it also protects a plain `axolotl train`. Line references
are to axolotl 0.19.
"""

from __future__ import annotations

import copy
import logging
import os
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from leviathan_train.config import changes
from leviathan_train.config.load import Config, input_facts
from leviathan_train.system import processes
from leviathan_train.trainer import prepared, restore
from leviathan_train.trainer.callback import LeviathanCallback
from leviathan_train.trainer.process import Life
from leviathan_train.trainer.workers import keep_workers


class LeviathanPlugin(BasePlugin):
    """What Axolotl calls; the training loop itself is in `LeviathanCallback`."""

    def __init__(self) -> None:
        super().__init__()
        self.raw: dict[str, Any] = {}
        self.life: Life | None = None
        self.callback: LeviathanCallback | None = None
        self.config_path = "config"
        self.ended = 0
        self.reset_preprocess = False

    def register(self, cfg: Any) -> None:
        """Called with the config as written, overrides applied; by every axolotl command."""
        self.raw = copy.deepcopy(dict(cfg))
        for key in changes.NOT_SETTINGS:
            self.raw.pop(key, None)
        self.config_path = str(cfg.get("axolotl_config_path") or "config")
        if os.environ.get(processes.SESSION_ENV):
            self.life = Life(cfg)
            logging.getLogger("axolotl.cli.config").addFilter(self.life.keep_config)

    def get_input_args(self) -> str:
        return "leviathan_train.plugin.LeviathanArgs"

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> None:
        """Only `train` gets here without `preprocess`."""
        if not preprocess:
            life = self._begin(cfg)
            life.phase("data")
            if life.rank == 0:
                prepared.discard_half_prepared(cfg)
            facts = input_facts(Config(Path(self.config_path), self.raw))["data"]
            resumed = bool(cfg.resume_from_checkpoint)
            if life.session.launch.get("prepare_anew") or (
                not resumed and prepared.is_stale(cfg, facts)
            ):
                # As `axolotl preprocess` does: the rows are made anew and replace the old.
                self.reset_preprocess, cfg.is_preprocess = True, True
            if life.rank == 0 and not (resumed and not self.reset_preprocess):
                prepared.remember(cfg, facts)

    def pre_model_load(self, cfg: Any) -> None:
        if self.reset_preprocess:
            cfg.is_preprocess = None
        if self.life:
            self.life.phase("model")

    def create_lr_scheduler(
        self, cfg: Any, trainer: Any, optimizer: Any, num_training_steps: int
    ) -> None:
        """Keep the groups as the config gives them, before the checkpoint overwrites them."""
        if self.callback and self.callback.fresh is None:
            self.callback.fresh = restore.fresh_groups(optimizer)
            self.callback.schedule_steps = num_training_steps

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        import axolotl.train

        life = self._begin(cfg)
        # Its handler would write the adapter into output_dir and exit 0 (train.py:174).
        axolotl.train.setup_signal_handler = lambda cfg, model: None
        trainer.args.disable_tqdm = True
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        config = Config(Path(self.config_path), self.raw)
        keep_workers(trainer)
        self.callback = LeviathanCallback(life, trainer, cfg, config)
        trainer.add_callback(self.callback)

    def post_train(self, cfg: Any, model: Any) -> None:
        """Called before and after the final adapter is written."""
        self.ended += 1
        if self.life is None or self.callback is None:
            return
        if self.ended == 1:
            self.life.phase("final")
        elif self.life.rank == 0:
            self.callback.finish()
        if self.ended == 2:
            self.life.watch.close()

    def _begin(self, cfg: Any) -> Life:
        if self.life is None:
            self.life = Life(cfg)
        return self.life
