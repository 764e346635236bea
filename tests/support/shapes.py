"""Checkpoint folders as the real libraries write them, small: for tests that need no training.

The shapes are those of plain Axolotl with LoRA, a full fine-tune in shards, FSDP with a
sharded state dict, and DeepSpeed ZeRO on two ranks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed
from safetensors.torch import save_file

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.seal import Seal, facts_of
from leviathan_train.run.folder import Run

Shape = Callable[[Path, int], None]


def trainer_state(step: int, *, every: int = 10, evals: int = 0, **more: Any) -> dict[str, Any]:
    """The state at `step`: a loss each `every` steps, an evaluation each `evals`."""
    history: list[dict[str, Any]] = []
    for at in range(every, step + 1, every):
        history.append(
            {
                "epoch": at / 100,
                "grad_norm": 0.5,
                "learning_rate": 1e-3 / at,
                "loss": 2 - at / 10_000,
                "step": at,
            }
        )
        if evals and at % evals == 0:
            history.append({"epoch": at / 100, "eval_loss": 1 + 1 / at, "step": at})
    return {
        "best_global_step": None,
        "best_metric": None,
        "best_model_checkpoint": None,
        "epoch": step / 100,
        "global_step": step,
        "log_history": history,
        "logging_steps": every,
        "max_steps": 20_000,
    } | more


def _common(path: Path, step: int, *, ranks: int = 1) -> None:
    path.mkdir(parents=True)
    weight = torch.nn.Parameter(torch.randn(8, 4))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), path / "optimizer.pt")
    torch.save({"last_epoch": step, "_step_count": step + 1}, path / "scheduler.pt")
    for rank in range(ranks):
        name = "rng_state.pth" if ranks == 1 else f"rng_state_{rank}.pth"
        torch.save({"cpu": torch.random.get_rng_state()}, path / name)
    torch.save({"seed": 42}, path / "training_args.bin")
    (path / "tokens_state.json").write_text('{"total": 4096}')
    (path / "tokenizer_config.json").write_text('{"model_max_length": 256}')
    (path / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    (path / "trainer_state.json").write_text(json.dumps(trainer_state(step), indent=2))


def lora(path: Path, step: int) -> None:
    _common(path, step)
    tensors = {f"base_model.q_proj.lora_{side}.weight": torch.randn(8, 64) for side in "AB"}
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))


def full(path: Path, step: int) -> None:
    _common(path, step)
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    for name in names:
        save_file({f"{name}.weight": torch.randn(16, 16)}, path / name, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 2048}, "weight_map": {f"{n}.weight": n for n in names}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def fsdp(path: Path, step: int) -> None:
    _common(path, step, ranks=2)
    (path / "optimizer.pt").unlink()
    for folder in ("pytorch_model_fsdp_0", "optimizer_0"):
        distributed.save(
            {"weight": torch.randn(16, 16)},
            storage_writer=distributed.FileSystemWriter(path / folder),
            no_dist=True,
        )


def deepspeed(path: Path, step: int) -> None:
    _common(path, step, ranks=2)
    (path / "optimizer.pt").unlink()
    (path / "scheduler.pt").unlink()
    states = path / f"global_step{step}"
    states.mkdir()
    torch.save({"module": torch.randn(8)}, states / "mp_rank_00_model_states.pt")
    for rank in range(2):
        name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer": torch.randn(8)}, states / name)
    (path / "latest").write_text(states.name)
    (path / "zero_to_fp32.py").write_text("print('to fp32')\n")
    lora_only = {"base_model.q_proj.lora_A.weight": torch.randn(8, 64)}
    save_file(lora_only, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))


SHAPES: dict[str, Shape] = {"lora": lora, "full": full, "fsdp": fsdp, "deepspeed": deepspeed}


def make(run: Path, step: int, shape: Shape = lora, *, sealed: bool = False, **state: Any) -> Path:
    """Write `checkpoint-<step>` of a run; `state` goes into `trainer_state`."""
    path = run / f"checkpoint-{step}"
    shape(path, step)
    if state:
        (path / "trainer_state.json").write_text(json.dumps(trainer_state(step, **state), indent=2))
    if sealed:
        seal(path)
    return path


def seal(path: Path, **more: Any) -> Seal:
    """Seal a checkpoint as the plugin does."""
    run = Run(path.parent)
    run.begin_save(path.name)
    state = json.loads((path / "trainer_state.json").read_text())
    values: dict[str, Any] = {
        "facts": facts_of(state),
        "time": time.time(),
        "seconds_trained": 60.0,
        "world_size": 1,
        "versions": {"leviathan": "0.1", "torch": str(torch.__version__)},
        "config": {"base_model": "./model", "lora_r": 8},
        "trainer": {"loss_sums": [[0.5, 1.5, 10.0]], "evaluation_owed": False},
    }
    return checkpoints.write_seal(run, path, Seal(**values | more))


def files(path: Path) -> list[str]:
    """Every file below a folder, by relative path."""
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
