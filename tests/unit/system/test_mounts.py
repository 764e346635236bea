"""Mounts that may not answer; `faults.hanging` has one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from leviathan_train.system import mounts


def test_a_local_disk_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # whoever would ask is not found
    assert mounts.answers(tmp_path / "run")


@pytest.mark.parametrize("way", ["/proc/self", "link/self", "folder/link/self"])
def test_what_is_no_local_disk_is_asked(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to("../link")
    (tmp_path / "link").symlink_to("/proc")
    monkeypatch.setattr(mounts, "_asked", {})
    assert mounts.answers(tmp_path / way)
    monkeypatch.setattr(mounts, "_asked", {})
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError):
        mounts.answers(tmp_path / way)


def test_a_link_to_itself_is_no_mount(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    assert mounts.answers(tmp_path / "link")
