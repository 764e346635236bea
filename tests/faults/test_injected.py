"""The short part of the failing system calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import injected
from support import shapes


@pytest.mark.parametrize("call", ["mkdir", "rename", "fsync"])
def test_no_failing_call_in_a_save_harms_what_was_sealed(call: str, tmp_path: Path) -> None:
    if why := injected.missing():
        pytest.skip(why)
    prepared = shapes.make(tmp_path / "prepared", 10)
    tries = injected.one_by_one(call, tmp_path, prepared, every=9)
    assert tries and all(one.survived for one in tries), tries
