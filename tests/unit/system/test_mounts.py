"""Mounts that may not answer; `faults.hanging` has one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from leviathan_train.system import mounts


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Whom the look asked, by mount."""
    found: dict[str, object] = {}
    monkeypatch.setattr(mounts, "_asked", found)
    return found


def test_a_local_disk_is_not_asked(tmp_path: Path, asked: dict[str, object]) -> None:
    assert mounts.answers(tmp_path / "run") and not asked


@pytest.mark.parametrize("way", ["/proc/self", "link/self", "folder/link/self"])
def test_what_is_no_local_disk_is_asked(
    way: str, tmp_path: Path, asked: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to("../link")
    (tmp_path / "link").symlink_to("/proc")
    assert mounts.answers(tmp_path / way) and list(asked) == ["/proc"]
    asked.clear()
    monkeypatch.setenv("PATH", "")
    assert mounts.answers(tmp_path / way), "nobody is there to ask"


def test_a_link_to_itself_is_no_mount(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    assert mounts.answers(tmp_path / "link")
