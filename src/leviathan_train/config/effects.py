"""The tables of what a changed key of the config does at a resume; `config.changes` decides.

The effects of the keys of Axolotl 0.19 were found by training; those of the keys that 0.20 and
0.21 added are concluded from the source of 0.21. A key in no table takes effect: Axolotl reads
it at each start, and a checkpoint does not hold it. `docs/resume.md` has the tables for users.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Effect(StrEnum):
    """What a change does; the value is the text shown. The worst comes first."""

    REFUSED = "refused"
    ORDER = "changes the data order"
    ASKED = "asked"
    TAKES_EFFECT = "takes effect"
    NOTED = "noted"
    NONE = "has no effect"


BELONGS = "the adapter belongs to the base model it was trained on"
_ARCHITECTURE = "the adapter's weights would not fit or would mean something else"
_SCALE = "the adapter's output would be scaled differently, and the loss would jump"
_MODULES = "the optimizer's momentum would be applied to other modules"
_ROUNDING = "the adapter has learned to compensate for another rounding of the base"
_SHARDING = "the checkpoint is laid out for another kind of sharding"
_KIND = "it is another kind of training"
_GROUPS = "the optimizer's state belongs to other parameter groups"
ROWS = "the rows come in another order or grouping, so some are repeated or left out"
_RANKS = "the rows are divided among another number of groups of processes: " + ROWS
_SCHEDULE = "from the next step what the new schedule gives at that step"
_FORMAT = "the data would be cut or written in another format than the adapter has learned"

REFUSED: Mapping[str, str] = {
    "base_model": BELONGS,
    "model_type": BELONGS,
    "revision_of_model": BELONGS,
    "adapter": _ARCHITECTURE,
    "lora_r": _ARCHITECTURE,
    "lora_rank_pattern": _ARCHITECTURE,
    "lora_alpha": _SCALE,
    "lora_alpha_pattern": _SCALE,
    "lora_target_modules": _MODULES,
    "lora_target_linear": _MODULES,
    "lora_target_parameters": _MODULES,
    "lora_modules_to_save": _ARCHITECTURE,
    "lora_fan_in_fan_out": _ARCHITECTURE,
    "peft_use_dora": _ARCHITECTURE,
    "peft_use_rslora": _SCALE,
    "peft_layers_to_transform": _ARCHITECTURE,
    "peft_layer_replication": _ARCHITECTURE,
    "peft_layers_pattern": _ARCHITECTURE,
    "peft_trainable_token_indices": _ARCHITECTURE,
    "unfrozen_parameters": _GROUPS,
    "load_in_4bit": _ROUNDING,
    "load_in_8bit": _ROUNDING,
    "nf4_backend": _ROUNDING,
    "nvfp4_merge_aware": _ROUNDING,
    "mixlora_num_experts": _ARCHITECTURE,
    "mixlora_top_k": "each token would go to another number of experts",
    "mixlora_expert_lora_r": _ARCHITECTURE,
    "mixlora_expert_lora_alpha": _SCALE,
    "sequence_len": _FORMAT,
    "sample_packing": _FORMAT,
    "chat_template": _FORMAT,
    "chat_template_jinja": _FORMAT,
    "special_tokens": _FORMAT,
    "tokens": _FORMAT,
    "tokenizer_config": _FORMAT,
    "tokenizer_type": _FORMAT,
    "added_tokens_overrides": _FORMAT,
    "optimizer": "another optimizer cannot read this one's state; the first step would fail",
    "loraplus_lr_ratio": _GROUPS,
    "loraplus_lr_embedding": _GROUPS,
    "embedding_lr": _GROUPS,
    "embedding_lr_scale": _GROUPS,
    "lr_groups": _GROUPS,
    "optim_target_modules": _GROUPS,
    "deepspeed": _SHARDING,
    "fsdp": _SHARDING,
    "fsdp_config": _SHARDING,
    "fsdp_version": _SHARDING,
    "rl": _KIND,
    "relora": _KIND,
    "reward_model": _KIND,
    "process_reward_model": _KIND,
    "diffusion_lm": _KIND,
    "diffusion_decision": _KIND,
}

ORDER: Mapping[str, str] = {
    "micro_batch_size": "batches already seen are counted in the new size: " + ROWS,
    "gradient_accumulation_steps": "steps are counted in the new size: " + ROWS,
    "batch_size": "batches already seen are counted in the new size: " + ROWS,
    "seed": ROWS,
    "data_seed": ROWS,
    "val_set_size": "rows move between training and evaluation: " + ROWS,
    "datasets": ROWS,
    "pretraining_dataset": ROWS,
    "dataset_exact_deduplication": ROWS,
    "shuffle_merged_datasets": ROWS,
    "shuffle_before_merging_datasets": ROWS,
    "curriculum_sampling": ROWS,
    "group_by_length": ROWS,
    "train_on_inputs": "other tokens count for the loss from here on",
    "excess_length_strategy": ROWS,
    "min_sample_len": ROWS,
    "pad_to_sequence_len": "the loss is averaged over batches of another shape",
    "sample_packing_bin_size": ROWS,
    "sample_packing_group_size": ROWS,
    "sample_packing_sequentially": ROWS,
    "sample_packing_eff_est": ROWS,
    "multipack_real_batches": ROWS,
    "balance_labels": ROWS,
    "label_balance_window_optim_steps": ROWS,
    "context_parallel": _RANKS,
    "context_parallel_size": _RANKS,
    "tensor_parallel_size": _RANKS,
}

TAKES_EFFECT: Mapping[str, str] = {
    "learning_rate": _SCHEDULE,
    "lr_scheduler": _SCHEDULE,
    "lr_scheduler_kwargs": _SCHEDULE,
    "warmup_steps": _SCHEDULE,
    "warmup_ratio": _SCHEDULE,
    "cosine_min_lr_ratio": _SCHEDULE,
    "cosine_constant_lr_ratio": _SCHEDULE,
    "num_epochs": "the schedule is stretched to the new number of steps",
    "max_steps": "the schedule is stretched to the new number of steps",
    "save_steps": "saves follow the new interval",
    "eval_steps": "evaluations follow the new interval",
    "logging_steps": "log lines follow the new interval",
    "save_total_limit": "older checkpoints go at the next save",
    "leviathan_keep_best": "older checkpoints go at the next save",
    "leviathan_keep_every": "older checkpoints go at the next save",
    "leviathan_mirror": "checkpoints are copied there from now on",
    "leviathan_mirror_keep": "copies there go at the next one",
    "leviathan_save_minutes": "saves follow the new interval",
    "weight_decay": "from the next step",
    "adam_beta1": "from the next step",
    "adam_beta2": "from the next step",
    "adam_epsilon": "from the next step",
    "max_grad_norm": "from the next step",
    "lora_dropout": "from the next step",
    "lora_fp32_gradients": "from the next step",
    "dpo_ld_alpha": "another loss from the next step",
    "use_dft": "another loss from the next step",
    "plugins": "what each plugin changes of the model, the loss or the data, from the next step",
}

OWN_STATE = {"one_cycle", "rex", "reduce_lr_on_plateau", "greedy"}
"""Schedulers whose state no other can load; the state of all others is a step count."""

NOT_SETTINGS = frozenset({"axolotl_config_path", "resume_from_checkpoint", "strict"})
"""Keys of a single start; they are not settings of the training."""

NO_EFFECT: Mapping[str, str] = {
    "auto_resume_from_checkpoints": "the checkpoint is chosen before the launch",
    "output_dir": "it names the run",
    "save_only_model": "every checkpoint is one to resume from",
    "dataset_prepared_path": "the same rows are prepared elsewhere",
    "lora_model_dir": "the adapter of the resumed checkpoint is loaded instead",
    "peft_init_lora_weights": "it sets the first weights of a new adapter",
    "mixlora_router_init_range": "it sets the first weights of a new router",
    "eval_on_start": "a resume starts training at once",
    "export": "only `axolotl export` reads it",
}

DEFAULTS: Mapping[str, Any] = {
    "seed": 42,
    "gradient_accumulation_steps": 1,
    "micro_batch_size": 1,
    "val_set_size": 0,
    "lora_dropout": 0,
    "weight_decay": 0,
    "max_grad_norm": 1,
    "num_epochs": 1,
    "lr_scheduler": "cosine",
    "optimizer": "adamw_torch_fused",
    "sequence_len": 512,
    "shuffle_merged_datasets": True,
    "nf4_backend": "bitsandbytes",
    "mixlora_num_experts": 8,
    "mixlora_top_k": 2,
    "label_balance_window_optim_steps": 1,
}
"""Axolotl's defaults (utils/schemas): a key set to its default is no change."""
