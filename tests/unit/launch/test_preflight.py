"""`leviathan check`: whatever would stop a run, or change its result, is told before."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config.changes import Change, Origin
from leviathan_train.config.effects import Effect
from leviathan_train.config.load import Config
from leviathan_train.jobs.validate import describe
from leviathan_train.launch import preflight
from leviathan_train.launch.findings import Finding, Level, exit_status
from leviathan_train.launch.validation import Validation, validate
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Cause, End, Ending, Launch
from leviathan_train.system.gpu import Gpu
from support.demo import MakeConfig
from support.driver import leviathan
from support.runs import end_session
from support.shapes import lora

GB = 2**30
A4000 = Gpu(0, "NVIDIA RTX A4000", 0, 16 * GB)


def look(path: Path, *overrides: str, **seams: Any) -> list[Finding]:
    """All findings, with a machine and a validation that find nothing unless told otherwise."""
    given: dict[str, Any] = {
        "ask_axolotl": lambda config: Validation(),
        "has_gpu": lambda: False,
        "gpus": tuple,
        "free_bytes": lambda path: 100 * GB,
    } | seams
    return list(preflight.check(path, overrides, **given))


def bad(findings: list[Finding], topic: str | None = None) -> list[Finding]:
    return [f for f in findings if f.level != "ok" and topic in (None, f.topic)]


@pytest.fixture
def plain(make_config: MakeConfig, tmp_path: Path) -> Path:
    return make_config(tmp_path)


def test_a_good_config_is_all_right(plain: Path) -> None:
    findings = look(plain)
    assert bad(findings) == []
    assert {f.topic for f in findings} == {
        "config", "inputs", "data", "keys", "resume", "gpu", "memory", "disk", "schema", "steps",
    }  # fmt: skip
    assert exit_status(findings) == 0


def test_a_config_that_cannot_be_read_is_the_only_finding(tmp_path: Path) -> None:
    (finding,) = look(tmp_path / "none.yaml")
    assert (finding.level, finding.topic) == ("error", "config")


def test_a_missing_input_is_an_error_and_the_rest_is_still_told(plain: Path) -> None:
    findings = look(plain, "base_model=./nowhere", "learning_rat=1")
    assert [f.topic for f in bad(findings)] == ["inputs", "keys"]
    assert exit_status(findings) == 2


def test_rows_of_a_file_that_is_not_there_are_not_said_to_be_readable(plain: Path) -> None:
    findings = look(plain, "datasets=[{path: ./gone.jsonl, ds_type: json, type: alpaca}]")
    assert any("gone.jsonl does not exist" in f.message for f in bad(findings, "inputs"))
    assert not any("Every row can be read" in f.message for f in findings)


def test_a_base_that_has_to_be_fetched_is_a_warning(plain: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (finding,) = bad(look(plain, "base_model=org/unknown"), "inputs")
    assert finding.level == "warning"


def test_unknown_and_doubled_keys_are_told_with_their_line(plain: Path) -> None:
    lines = plain.read_text().splitlines()
    plain.write_text("\n".join([*lines, "lora_rr: 1", "lora_r: 8", ""]))
    unknown, doubled = bad(look(plain), "keys")
    assert (unknown.level, doubled.level) == ("error", "error")
    assert f"line {len(lines) + 1}: key lora_rr" in unknown.message
    assert "lora_r" in str(unknown.hint)
    assert f" and {len(lines) + 2}: key lora_r " in doubled.message


def test_a_value_of_a_wrong_kind_is_an_error_with_its_line(plain: Path) -> None:
    plain.write_text(plain.read_text().replace("lora_alpha: 16", "lora_alpha: many"))
    (wrong,) = bad(look(plain), "schema")
    assert wrong.level == "error"
    assert ": lora_alpha: many should be a valid integer" in wrong.message


def test_a_key_that_a_foreign_plugin_may_know_is_a_warning(plain: Path) -> None:
    key, plugin = bad(look(plain, "plugins=[other.Plugin]", "xyzzy=1"), "keys")
    assert (key.level, plugin.level) == ("warning", "error")
    assert "plugins: other.Plugin cannot be loaded" in plugin.message


def test_changes_since_the_checkpoint_have_the_level_of_their_effect(
    plain: Path, tmp_path: Path
) -> None:
    lora(tmp_path / "run" / "checkpoint-10", 10)

    def compare(origin: Origin, config: Config) -> list[Change]:
        assert origin.step == 10
        return [
            Change("lora_r", 8, 16, Effect.REFUSED, "it would not fit"),
            Change("seed", 1, 2, Effect.ORDER, "rows"),
            Change("learning_rate", 1, 2, Effect.TAKES_EFFECT, "from the next step"),
            Change("hf_token", None, "hf_abcdefghijklmnopqrstuvwxyz", Effect.TAKES_EFFECT, "why"),
        ]

    told = [f for f in look(plain, compare=compare) if "changed from" in f.message]
    assert [f.level for f in told] == ["error", "warning", "ok", "ok"]
    assert "8 to 16: refused: it would not fit" in told[0].message
    assert "hf_abc" not in told[3].message


def test_a_finished_run_is_not_said_to_be_resumed(plain: Path, tmp_path: Path) -> None:
    lora(tmp_path / "run" / "checkpoint-10", 10)
    session = Run(tmp_path / "run").open_session(Launch())
    end_session(session, End(Ending.FINISHED, 10, None, "", 1.0, Cause.DONE))
    told = [f.message for f in look(plain, "max_steps=10") if f.topic == "resume"]
    assert any("already finished, at step 10" in line for line in told)
    assert not any("The run resumes" in line for line in told)


def test_a_damaged_newest_checkpoint_is_a_warning(plain: Path, tmp_path: Path) -> None:
    lora(tmp_path / "run" / "checkpoint-10", 10)
    lora(tmp_path / "run" / "checkpoint-20", 20)
    (tmp_path / "run" / "checkpoint-20" / "optimizer.pt").unlink()
    findings = look(plain, compare=lambda origin, config: [])
    (finding,) = bad(findings, "resume")
    assert "checkpoint-20 is not intact: optimizer.pt" in finding.message
    assert any("resumes from checkpoint-10" in f.message for f in findings)


def test_a_gpu_config_on_a_machine_without_one_is_an_error(
    plain: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    (finding,) = bad(look(plain, "bf16=true"), "gpu")
    assert finding.level == "error"
    assert "bf16: true" in finding.message
    assert "--set bf16=false" in str(finding.hint)
    assert "configs/demo_cpu.yaml" in str(finding.hint)  # the tests start where it exists
    monkeypatch.chdir(tmp_path)
    (finding,) = bad(look(plain, "bf16=true"), "gpu")
    assert "demo_cpu" not in str(finding.hint)


@pytest.mark.parametrize(
    ("gpu", "level", "told"),
    [
        (A4000, "ok", "NVIDIA RTX A4000: 16G of 16G free"),
        (replace(A4000, users=((1, 2 * GB),)), "warning", "held by process 1 ("),
        (
            replace(A4000, used_bytes=16 * GB - 1000),
            "error",
            "the weights of the base model alone take",
        ),
    ],
)
def test_gpu_memory_and_who_holds_it_are_told(plain: Path, gpu: Gpu, level: str, told: str) -> None:
    findings = look(plain, "bf16=true", has_gpu=lambda: True, gpus=lambda: (gpu,))
    (finding,) = [f for f in findings if f.topic == "gpu"]
    assert finding.level == level
    assert told in finding.message


def test_a_gpu_without_nvml_is_no_fault(plain: Path) -> None:
    assert bad(look(plain, has_gpu=lambda: True)) == []


def test_a_disk_that_will_be_full_is_told(plain: Path, tmp_path: Path) -> None:
    estimated = bad(look(plain, free_bytes=lambda path: 500_000), "disk")
    assert [f.level for f in estimated] == ["warning"]
    assert "(estimated)" in estimated[0].message
    assert [f.level for f in bad(look(plain, free_bytes=lambda path: 10), "disk")] == ["error"]
    lora(tmp_path / "run" / "checkpoint-10", 10)
    quiet: dict[str, Any] = {"compare": lambda origin, config: []}
    (seen,) = bad(look(plain, "save_total_limit=9", free_bytes=lambda path: 9, **quiet), "disk")
    assert seen.level == "error"
    assert "as seen in this run" in seen.message
    assert "the next checkpoint needs" in seen.message


def test_a_file_system_that_does_not_tell_is_no_fault(plain: Path) -> None:
    assert bad(look(plain, free_bytes=lambda path: None), "disk") == []


def test_axolotls_objections_are_findings(plain: Path) -> None:
    said = Validation(["lora_r: wrong"], ["Something is deprecated."])
    error, warning = bad(look(plain, ask_axolotl=lambda config: said), "schema")
    assert (error.level, error.message) == ("error", "Axolotl refuses the config: lora_r: wrong.")
    assert warning.message == "Axolotl warns: Something is deprecated."


def test_a_failing_validation_is_told_and_not_raised(plain: Path) -> None:
    findings = look(plain, ask_axolotl=lambda config: validate(config, python="/bin/false"))
    assert "validation failed (exit 1)" in bad(findings, "schema")[0].message


def test_a_run_that_is_training_has_the_exit_status_of_train(plain: Path, tmp_path: Path) -> None:
    Run(tmp_path / "run").open_session(Launch(cli=True))
    findings = look(plain)
    assert "already training" in bad(findings, "resume")[0].message
    assert exit_status(findings) == 1


def test_errors_of_pydantic_become_a_line_for_each_key() -> None:
    values = {"bf16": "full", "datasets": [{"path": 3}], "trl": {}}
    found: list[dict[str, Any]] = [
        {"type": "a", "loc": ("bf16", "literal['auto']"), "msg": "Input should be 'auto'"},
        {"type": "b", "loc": ("bf16", "bool"), "msg": "Input should be a boolean"},
        {"type": "c", "loc": ("datasets", 0, "SFTDataset", "path"), "msg": "Value error, no"},
        {"type": "missing", "loc": ("trl", "beta"), "msg": "Field required"},
        {"type": "value_error", "loc": (), "msg": "Value error, two\n keys"},
    ]
    assert describe(found, values) == [
        "bf16: Input should be 'auto'; or Input should be a boolean",
        "datasets[0].path: no",
        "trl.beta: Field required",
        "two keys",
    ]


@pytest.mark.axolotl
@pytest.mark.train
@pytest.mark.slow
def test_axolotl_itself_is_asked_in_a_child(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    good = leviathan("check", config, cwd=tmp_path, env=env)
    assert good.returncode == 0, good.stdout + good.stderr
    assert "❌" not in good.stdout
    assert "✅ Axolotl's own validation accepts the config." in good.stdout

    overrides = ["--set", "lora_r=many", "--set", "trl.beta=x", "--set", "foo=1"]
    done = leviathan("check", config, *overrides, "--json", cwd=tmp_path, env=env)
    assert done.returncode == 2, done.stderr
    value = json.loads(done.stdout)
    assert not value["ok"]
    wrong = [f["message"] for f in value["findings"] if f["level"] == "error"]
    assert any("--set: key foo" in line for line in wrong)
    assert any("lora_r: Input should be a valid integer" in line for line in wrong)
    assert any("trl.beta: Input should be a valid number" in line for line in wrong)


@pytest.mark.parametrize(
    "given",
    [
        "base_model=./gone",
        "val_set_size=1000",
        "lora_model_dir=./gone",
        "output_dir=~/run",
        "datasets=[{path: gone.jsonl, type: alpaca}]",
        "datasets=3",
    ],
)
def test_what_is_wrong_with_a_set_value_names_the_option(
    make_config: MakeConfig, tmp_path: Path, given: str
) -> None:
    told = [one.message for one in look(make_config(tmp_path), given) if one.level is Level.ERROR]
    assert any(f"--set: {given.partition('=')[0]}" in line for line in told), told


def test_where_the_terminal_has_no_signs_they_are_spelt(
    tmp_path: Path, env: dict[str, str]
) -> None:
    ascii_only = env | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = leviathan("check", "no.yaml", cwd=tmp_path, env=ascii_only)
    assert done.stdout.startswith("[x] No config at no.yaml")


def test_the_text_for_people_has_the_hint_below(tmp_path: Path, env: dict[str, str]) -> None:
    done: subprocess.CompletedProcess[str] = leviathan("check", "no.yaml", cwd=tmp_path, env=env)
    assert done.returncode == 2
    first, second = done.stdout.splitlines()
    assert first.startswith("❌ No config at no.yaml")
    assert second.startswith("   ")
