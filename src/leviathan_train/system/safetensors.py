"""The headers of safetensors files, read and written without the library and without torch.

The format: 8 bytes of the header's length, the header as JSON, then the tensors without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8}
_BITS |= {"U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8}


class HeaderError(ValueError):
    """A file is not a sound safetensors file; the text goes on after the file's name."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: where it lies, in bytes from the file's start, and what it is."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


_LONGEST = 32 << 20
"""Bytes of a header that are read at most: those of a quarter of a million tensors. The library
itself takes three times as many; a damaged length may say anything."""
_MOST_DIMENSIONS = 64


def read_header(file: Path) -> dict[str, Entry]:
    """The tensors of a file by name, in the order in which they lie in it.

    Raises:
        HeaderError: the header does not describe tensors that fill the file without gaps.
        OSError: it cannot be read.
    """
    size = file.stat().st_size
    if size < 8:
        raise HeaderError("is cut off" if size else "is empty")
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size - 8, _LONGEST):
            raise HeaderError("is cut off or its header is damaged")
        text = stream.read(length)
    found, end = {}, 8 + length
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        for name, value in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, stop = (8 + length + offset for offset in value["data_offsets"])
            entry = Entry(value["dtype"], _shape(value["shape"]), start, stop - start)
            bits = _BITS.get(entry.dtype)
            if start != end or (bits and entry.size * 8 != math.prod(entry.shape) * bits):
                raise HeaderError("has a damaged header")
            found[name], end = entry, stop
    except HeaderError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise HeaderError("has a damaged header") from None
    if size != end:
        raise HeaderError(f"has {size} bytes instead of {end}")
    return found


def _shape(value: object) -> tuple[int, ...]:
    """A tensor's dimensions; the product of numbers without a limit would take hours."""
    if not isinstance(value, list) or len(value) > _MOST_DIMENSIONS:
        raise ValueError
    if not all(type(length) is int and 0 <= length < 1 << 63 for length in value):
        raise ValueError
    return tuple(value)


def write_header(tensors: Iterable[tuple[str, Entry]]) -> bytes:
    """The beginning of a file that holds these tensors in this order; `start` is not looked at.

    The metadata says `format: pt`, without which transformers refuses a file.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, entry in tensors:
        offsets = [end, end + entry.size]
        header[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned, as the library does it
    return len(text).to_bytes(8, "little") + text
