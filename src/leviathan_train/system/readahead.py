"""What a start reads from disk, noted in one and read ahead in the next.

Python imports one file after another, and a library is read page by page as its functions are
called. With nothing in memory, the disk has one small request to serve at a time; told of them
all at once it is several times as fast.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from leviathan_train.system import places
from leviathan_train.system.files import read_object, write_text

Spans = Sequence[Sequence[int]]
"""Parts of a file as offset and length in bytes; none at all means the whole file."""

_PAGE = mmap.PAGESIZE
_PRESENT = 1 << 63  # of an entry in /proc/PID/pagemap (Linux, admin-guide/mm/pagemap.rst)
_GAP = 32
"""Pages between two that were read which are not worth a second request."""
_REQUEST = 1 << 20
"""Bytes of one request: of more the kernel takes only the beginning."""
_THREADS = 4
_SAMPLE = 50
"""Files that are looked at to tell whether all is in memory already."""
_LIBRARY = re.compile(r"\.so(\.[\d.]+)?$")


def noted_file() -> Path:
    """Where the last start of this Python environment is noted, in the user's cache."""
    name = hashlib.sha256(os.fsencode(sys.prefix)).hexdigest()[:20]
    return places.cache() / "start" / f"{name}.json"


def note() -> None:
    """Note the modules and libraries that this process has read.

    Takes a tenth of a second with 6,000 files. A cache that cannot be written is no fault.
    """
    with contextlib.suppress(OSError):
        write_text(noted_file(), json.dumps({**libraries(), **dict.fromkeys(modules(), ())}))


def modules() -> Iterator[str]:
    """The compiled files of the imported modules, in the order of their imports."""
    for module in list(sys.modules.values()):
        # Not by getattr: a module that loads itself when it is looked at may raise anything.
        spec = getattr(module, "__dict__", {}).get("__spec__")
        path = getattr(spec, "cached", None)
        if isinstance(path, str) and os.path.exists(path):
            yield path


def libraries() -> dict[str, Spans]:
    """What this process has touched of each shared library, the last one loaded first.

    Empty where /proc does not tell.
    """
    try:
        touched = _touched()
    except OSError:
        return {}
    return {path: _spans(sorted(found)) for path, found in touched.items() if found}


def _touched() -> dict[str, set[int]]:
    """The pages of each mapped library that this process has touched."""
    touched: dict[str, set[int]] = {}
    with open("/proc/self/pagemap", "rb", buffering=0) as pages:
        for line in Path("/proc/self/maps").read_text().splitlines():
            addresses, _, offset, _, _, *path = line.split(maxsplit=5)
            if not path or not _LIBRARY.search(path[0]):
                continue
            first, last = (int(address, 16) // _PAGE for address in addresses.split("-"))
            entries = array("Q", os.pread(pages.fileno(), (last - first) * 8, first * 8))
            begin = int(offset, 16) // _PAGE
            present = (begin + at for at, entry in enumerate(entries) if entry & _PRESENT)
            touched.setdefault(path[0], set()).update(present)
    return touched


def _spans(pages: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers of pages as spans, those that lie close to each other in one."""
    found: list[tuple[int, int]] = []
    for page in pages:
        if found and page - found[-1][1] <= _GAP:
            found[-1] = (found[-1][0], page + 1)
        else:
            found.append((page, page + 1))
    return [(first * _PAGE, (end - first) * _PAGE) for first, end in found]


def read_ahead() -> None:
    """Have the kernel read what was noted, unless memory is scarce or most of it is there.

    Returns when all is asked for, and most of it read.
    """
    noted: Mapping[str, Spans] = read_object(noted_file())
    if _bytes(noted) > psutil.virtual_memory().available // 4 or _is_in_memory(list(noted)):
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(_ask_for, noted, noted.values()))


def _ask_for(path: str, spans: Spans) -> None:
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as stream:
        for offset, length in spans or [(0, os.fstat(stream.fileno()).st_size)]:
            for at in range(offset, offset + length, _REQUEST):
                size = min(_REQUEST, offset + length - at)
                os.posix_fadvise(stream.fileno(), at, size, os.POSIX_FADV_WILLNEED)


def _is_in_memory(paths: Sequence[str]) -> bool:
    sample = paths[:: max(1, len(paths) // _SAMPLE)]
    return sum(map(_has_first_page, sample)) > 0.9 * len(sample)


def _has_first_page(path: str) -> bool:
    """Whether a file's beginning can be read without the disk."""
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as stream:
        return os.preadv(stream.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) >= 0
    return False


def _bytes(noted: Mapping[str, Spans]) -> int:
    """How much of the libraries is read; the modules are small beside them."""
    return sum(length for spans in noted.values() for _, length in spans)
