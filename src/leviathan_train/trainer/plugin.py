"""The Axolotl plugin: a pause that is a full checkpoint, a save that is sealed, a resume
that is exact. It lives in the trainer's process, on every rank.

Named in a config's `plugins`, it also protects a plain `axolotl train`.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin

from leviathan_train.config.effects import DEFAULTS, NOT_SETTINGS
from leviathan_train.config.inputs import input_facts, local_datasets
from leviathan_train.config.load import Config
from leviathan_train.run.records import Phase
from leviathan_train.system import processes
from leviathan_train.trainer import (
    callbacks,
    optimizer_settings,
    other_callbacks,
    prepared,
    upstream,
)
from leviathan_train.trainer.loop import Loop
from leviathan_train.trainer.overrides import restore_strings
from leviathan_train.trainer.position import make_order_repeatable
from leviathan_train.trainer.process import TrainerProcess
from leviathan_train.trainer.ranks import Ranks, know_cpu_ranks, world
from leviathan_train.trainer.workers import keep_workers
from leviathan_train.trainer.writer import CheckpointWriter


class LeviathanPlugin(BasePlugin):
    """What Axolotl calls, in this order; the training loop itself is in the callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.raw: dict[str, Any] = {}
        self.process: TrainerProcess | None = None
        self.loop: Loop | None = None
        self.writer: CheckpointWriter | None = None
        self.config_path = "config"
        self.inputs: dict[str, Any] = {}
        self.ended = 0
        self.reset_preprocess = False
        self.data_files: list[Path] = []
        self.rows_before: Mapping[str, int] | None = None

    def register(self, cfg: Any) -> None:
        """Called with the config as written, overrides applied; by every axolotl command."""
        restore_strings(cfg, sys.argv[1:])
        self.raw = copy.deepcopy(dict(cfg))
        for key in NOT_SETTINGS:
            self.raw.pop(key, None)
        if cfg.get("seed") is None:
            # As Axolotl means it: its own default (utils/schemas/validation.py, `set_default_seed`)
            # counts only for a `seed:` without a value, and without one the rows that it prepares
            # come in another order each time.
            cfg["seed"] = DEFAULTS["seed"]
        resumed = cfg.get("resume_from_checkpoint")
        if cfg.get("lora_model_dir") and (Path(str(resumed)) / "adapter_config.json").is_file():
            # Axolotl would shape the adapter as that one is (loaders/adapter.py, `load_lora`),
            # and the resumed weights might not fit.
            cfg["lora_model_dir"] = str(resumed)
        self.config_path = str(cfg.get("axolotl_config_path") or "config")
        if os.environ.get(processes.SESSION_ENV):
            process = self._begin(cfg)
            logging.getLogger("axolotl.cli.config").addFilter(process.keep_config)

    def get_input_args(self) -> str:
        return "leviathan_train.plugin.LeviathanArgs"

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> None:
        """Called before the rows are loaded or made, by `train` and by `preprocess`."""
        config = Config(Path(self.config_path), self.raw)
        resumed = bool(cfg.resume_from_checkpoint)
        rebuild = not resumed and prepared.is_stale(cfg, config)
        if not preprocess:
            process = self._begin(cfg)
            process.phase(Phase.DATA)
            rebuild = rebuild or process.session.launch.prepare_anew
            if rebuild:
                # No rank may take old rows that rank 0 has not removed yet.
                self.reset_preprocess, cfg.is_preprocess = True, True
        if world()[0] == 0:
            self.data_files = [path for _, path in local_datasets(config)]
            prepared.discard(cfg, self.data_files if rebuild else None)
            self.rows_before = prepared.folders(cfg)
            self.inputs = input_facts(config, prepared.sources(cfg))
            if rebuild or not resumed:
                prepared.remember(cfg, self.inputs["data"])

    def pre_model_load(self, cfg: Any) -> None:
        if self.reset_preprocess:
            cfg.is_preprocess = None
        if self.rows_before is not None:
            prepared.note_files(cfg, self.rows_before, self.data_files)
        if self.process:
            self.process.phase(Phase.MODEL)

    def create_lr_scheduler(
        self, cfg: Any, trainer: Any, optimizer: Any, num_training_steps: int
    ) -> None:
        """Keep the groups as the config gives them, before the checkpoint overwrites them."""
        optimizer_settings.name_weight_decay(optimizer)
        if self.loop and self.loop.fresh is None:
            self.loop.fresh = optimizer_settings.fresh_groups(optimizer)
            self.loop.schedule_steps = num_training_steps

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        process = self._begin(cfg)
        know_cpu_ranks()
        upstream.keep_signals()
        upstream.keep_4bit_weights(trainer)
        other_callbacks.quiet_progress(trainer)
        keep_workers(trainer)
        make_order_repeatable(trainer)
        config = Config(Path(self.config_path), self.raw)
        ranks = Ranks(process.rank, process.world_size)
        self.loop = Loop(process, trainer, cfg, config, ranks, self.inputs)
        self.writer = CheckpointWriter(self.loop)
        for callback in callbacks.in_order(self.loop, self.writer):
            trainer.add_callback(callback)

    def post_train(self, cfg: Any, model: Any) -> None:
        """Called twice: before and after the final adapter is written."""
        self.ended += 1
        if self.process is None or self.writer is None:
            return
        if self.ended == 1:
            self.process.phase(Phase.FINAL)
            self.writer.make_room_for_final()
        elif self.process.rank == 0:
            self.writer.finish()
        if self.ended == 2:
            self.process.listener.close()

    def _begin(self, cfg: Any) -> TrainerProcess:
        """This process's part in a session, from the first call on."""
        if self.process is None:
            self.process = TrainerProcess(cfg)
            if note := upstream.check_upstream():
                self.process.say(note)
        return self.process
