"""One form for each quantity."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from leviathan_train.system.units import duration, size


def test_sizes_read_as_in_the_guide_and_as_on_the_box() -> None:
    assert size(487 * 2**20) == "487M" and size(1.4 * 2**30) == "1.4G"
    assert size(16_376 * 2**20) == "16G", "what the driver tells of a card with 16 GB"
    assert (size(0), size(999), size(None)) == ("0B", "999B", "-")
    assert size(1023.7 * 1024) == "1.0M" and size(9.97 * 2**20) == "10M"


@given(st.integers(0, 2**50))
def test_a_size_is_at_most_five_characters_and_within_a_twentieth(count: int) -> None:
    text = size(count)
    assert len(text) <= 5
    back = float(text[:-1]) * 1024 ** "BKMGT".index(text[-1])
    assert abs(back - count) <= 0.05 * count + 0.5


def test_durations_have_two_units() -> None:
    assert [duration(seconds) for seconds in (45.9, 725, 25_500, 273_600)] == [
        "45s",
        "12m 05s",
        "7h 05m",
        "3d 4h",
    ]
