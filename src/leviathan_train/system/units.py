"""Quantities as people read them: one form for each, in every command."""

from __future__ import annotations

import math
from datetime import datetime


def count(number: int, noun: str) -> str:
    """`1 checkpoint`, `2 checkpoints`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size(amount: float | None) -> str:
    """Bytes in powers of 1024 with the unit's letter, as `du -h`: 487M, 1.4G.

    Files, disks and memory of GPUs alike: a card sold with 16 GB reads 16G.
    """
    if amount is None:
        return "-"
    value = float(amount)
    for unit in ("B", "K", "M", "G", "T"):
        if value < 1023.5 or unit == "T":
            break
        value /= 1024
    return f"{value:.0f}{unit}" if unit == "B" or value >= 9.95 else f"{value:.1f}{unit}"


def duration(seconds: float | None) -> str:
    """Seconds in their two largest units: 45s, 12m 05s, 7h 05m, 3d 4h."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def clock(at: float | None) -> str:
    """Seconds since the epoch as local date and time."""
    told = None if at is None else _local(at)
    return "-" if told is None else told.strftime("%Y-%m-%d %H:%M:%S")


def _local(at: float) -> datetime | None:
    """A time as this machine's clocks show it; None for one that no calendar has."""
    try:
        return datetime.fromtimestamp(at)
    except (ValueError, OverflowError, OSError):
        return None


def moment(at: float, now: float, *, always_date: bool = False) -> str:
    """A time near `now`, with the day only if it is not today: 08:00, Tue 12 Nov 14:04."""
    told = _local(at)
    if told is None:
        return "-"
    today = told.date() == datetime.fromtimestamp(now).date()
    return told.strftime("%H:%M" if today and not always_date else "%a %d %b %H:%M")
