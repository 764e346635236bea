"""How many processes and machines a training has, told before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from leviathan_train.launch.machines import Layout, layout_of, with_machine

TWO = "--num_machines 2 --machine_rank 1 --main_process_ip 10.0.0.1 --main_process_port 29500"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """accelerate's own settings, which nobody has written yet."""
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache/huggingface/accelerate"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("words", "has_gpu", "expected"),
    [
        ("", False, Layout(1)),
        ("", True, Layout(4)),
        ("--mixed_precision no", True, Layout(4)),
        ("--cpu --num_processes 1", True, Layout(1)),
        ("--multi_gpu --num_processes 2", True, Layout(2)),
        ("--multi_gpu --num-processes=3", True, Layout(3)),
        ("--multi_gpu --num_processes 2", False, Layout(2)),
        ("--num_processes 2", False, Layout(1, asked=2)),
        ("--cpu --num_processes=2", False, Layout(1, asked=2)),
        ("--num_processes many", False, Layout(None)),
        (f"--num_processes 4 {TWO}", False, Layout(4, 2, 1, ("10.0.0.1", 29500))),
        (TWO, True, Layout(None, 2, 1, ("10.0.0.1", 29500))),
        ("--num_machines=2 --machine-rank=1", False, Layout(None, 2, 1)),
    ],
)
def test_the_arguments_tell(words: str, has_gpu: bool, expected: Layout) -> None:
    assert layout_of(words.split(), has_gpu=has_gpu, gpus=lambda: 4) == expected


def test_a_file_of_settings_tells_what_the_arguments_leave_open(
    cache: Path, tmp_path: Path
) -> None:
    named = tmp_path / "named.yaml"
    named.write_text("num_machines: 2\nmachine_rank: 1\nnum_processes: 8\nmain_process_ip: null\n")
    found = layout_of(["--config_file", str(named)], has_gpu=False)
    assert found == Layout(8, 2, 1)
    assert not found.is_first
    assert layout_of(["--config_file", str(named), "--machine_rank", "0"], has_gpu=False).is_first
    (cache / "default_config.yaml").write_text("num_processes: 3\n")
    assert layout_of([], has_gpu=True, gpus=lambda: 4) == Layout(3)
    assert layout_of(["--cpu"], has_gpu=True) == Layout(None)  # accelerate does not read it then


@pytest.mark.parametrize("text", ["", "- a list", "{", "num_processes: [1]"])
def test_a_file_that_tells_nothing_is_no_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    assert layout_of(["--config_file", str(tmp_path / "odd.yaml")], has_gpu=False) == Layout()


@pytest.mark.parametrize("rank", ["--machine_rank 0", "--machine-rank=0", ""])
def test_the_same_command_for_another_machine(rank: str) -> None:
    words = f"--num_machines 2 {rank} --num_processes 2".split()
    expected = ["--num_machines", "2", "--num_processes", "2", "--machine_rank", "1"]
    assert list(with_machine(words, 1)) == expected
