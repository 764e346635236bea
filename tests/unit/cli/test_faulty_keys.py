"""What is wrong in a config is told by `train` before anything heavy starts."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from support.demo import MakeConfig
from support.driver import leviathan


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lora_rr: 8", "key lora_rr is unknown to Axolotl"),
        ("lora_alpha: many", "lora_alpha: many should be a valid integer"),
        ("lora_r: -1", "lora_r: -1 must be at least 1"),
        ("learning_rate: abc", "learning_rate: abc must be a number"),
        ("micro_batch_size: two", "micro_batch_size: two should be a valid integer"),
        ("optimizer: adamm", "optimizer: adamm is not a name"),
    ],
)
def test_train_refuses_it_with_its_line_in_under_a_second(
    make_config: MakeConfig, tmp_path: Path, env: dict[str, str], text: str, told: str
) -> None:
    config = make_config(tmp_path)
    key = text.partition(":")[0]
    kept = [line for line in config.read_text().splitlines() if not line.startswith(f"{key}:")]
    config.write_text("\n".join([*kept, text, ""]))
    leviathan("train", config, cwd=tmp_path, env=env)  # Axolotl may have to be asked first
    before = cpu_seconds()
    done = leviathan("train", config, cwd=tmp_path, env=env, check=2)
    assert cpu_seconds() - before < 1
    assert f"config.yaml, line {len(kept) + 1}: {told}" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_key_given_twice_is_refused_unless_its_owner_says_yes(
    make_config: MakeConfig, tmp_path: Path, env: dict[str, str]
) -> None:
    config = make_config(tmp_path)
    lines = config.read_text().splitlines()
    first = lines.index("lora_r: 8") + 1
    config.write_text("\n".join([*lines, "lora_r: 8", ""]))
    done = leviathan("train", config, cwd=tmp_path, env=env, check=2)
    told = f"config.yaml, lines {first} and {len(lines) + 1}: key lora_r is given more than once"
    assert told in done.stderr
    passed = leviathan("train", config, "--yes", "--dry-run", cwd=tmp_path, env=env, check=0)
    assert told in passed.stdout


def test_a_value_that_cannot_be_is_refused_in_any_case(
    make_config: MakeConfig, tmp_path: Path, env: dict[str, str]
) -> None:
    config = make_config(tmp_path)
    args = ["--yes", "--dry-run", "--set", "micro_batch_size=0"]
    done = leviathan("train", config, *args, cwd=tmp_path, env=env, check=2)
    assert "--set: micro_batch_size: 0 must be at least 1" in done.stderr
    assert "--yes" not in done.stderr


def test_where_axolotl_cannot_be_asked_the_start_goes_on(
    make_config: MakeConfig, tmp_path: Path, env: dict[str, str]
) -> None:
    fake = tmp_path / "pydantic.py"  # every child of this start fails to import it
    fake.write_text("raise ImportError('broken on purpose')")
    broken = env | {"PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    config = make_config(tmp_path, lora_rr=1)
    done = leviathan("train", config, "--dry-run", cwd=tmp_path, env=broken, check=0)
    assert "cannot be asked which keys it knows: ImportError: broken on purpose" in done.stdout
