"""Any JSON document, as far as a reader may meet it: for the tests of readers."""

from __future__ import annotations

from hypothesis import strategies as st

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10, -1, 1 << 63, 1 << 64])
)
_LISTS = st.lists(_SCALARS, max_size=3)
JSON = (
    _SCALARS
    | _LISTS
    | st.dictionaries(st.text(max_size=5), _SCALARS | _LISTS, max_size=3)
    | st.lists(_LISTS, max_size=2)
)
"""Numbers that no float holds, NaN and infinity among them; lists and objects of two levels."""
