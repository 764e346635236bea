"""What people see of the copies elsewhere."""

from __future__ import annotations

from typing import Any

from leviathan_train.system.units import clock
from leviathan_train.ui.text import count, one_line, plain


def mirror(value: Any) -> str:
    """What is known of the copies elsewhere, in one line."""
    steps = value["steps"]
    up_to = f"up to step {max(steps)}" if steps else "nothing yet"
    told = [f"{value['url']}: {up_to} ({count(len(steps), 'checkpoint')})"]
    if value["copying"]:
        told.append(f"copying {value['copying']}")
    if value["other"]:
        told.append(f"{value['other']} writes there, too")
    if value["trouble"]:
        told.append(f"not since {clock(value['since'])}: {one_line(value['trouble'])}")
    return plain("; ".join(told))
