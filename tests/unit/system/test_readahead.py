"""What a start reads is noted, and is in memory again after it was read ahead."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from leviathan_train.system import readahead

PAGE = mmap.PAGESIZE
NOTE = """
import json.decoder, zstandard
from leviathan_train.system import readahead
readahead.note()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache"


def big_file(folder: Path) -> Path:
    """A file of four MB that is on disk and not in memory."""
    file = folder / "library.so"
    file.write_bytes(os.urandom(4 << 20))
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if in_memory(file, 0):
        pytest.skip("this file system keeps its files in memory")
    return file


def in_memory(file: Path, offset: int) -> bool:
    """Whether the page at `offset` is in the page cache; asking reads nothing (mincore(2))."""
    libc, found = ctypes.CDLL(None, use_errno=True), ctypes.c_ubyte()
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapped:
        page = ctypes.byref(ctypes.c_char.from_buffer(mapped), offset // PAGE * PAGE)
        failed = libc.mincore(page, ctypes.c_size_t(PAGE), ctypes.byref(found))
        del page
    assert not failed, os.strerror(ctypes.get_errno())
    return bool(found.value & 1)


def soon_in_memory(file: Path, offset: int) -> bool:
    """The same within a while: the kernel reads beside whoever asked for it."""
    until = time.monotonic() + 10
    while not in_memory(file, offset) and time.monotonic() < until:
        time.sleep(0.01)
    return in_memory(file, offset)


def note(*parts: tuple[Path, list[tuple[int, int]]]) -> None:
    readahead.noted_file().parent.mkdir(parents=True)
    readahead.noted_file().write_text(json.dumps({str(path): spans for path, spans in parts}))


def test_a_process_notes_its_modules_and_the_pages_of_its_libraries() -> None:
    subprocess.run([sys.executable, "-c", NOTE], check=True)
    noted = json.loads(readahead.noted_file().read_text())
    (module,) = [path for path in noted if "/json/__pycache__/decoder." in path]
    assert noted[module] == []
    (library,) = [path for path in noted if "zstandard/backend_c" in path]
    size = Path(library).stat().st_size
    spans = noted[library]
    assert spans == sorted(spans)
    assert all(offset % PAGE == 0 and 0 < length <= size + PAGE for offset, length in spans)
    assert 0 < sum(length for _, length in spans) <= size + PAGE


def test_a_module_that_cannot_be_looked_at_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(ModuleType):
        def __getattribute__(self, name: str) -> object:
            if name != "__dict__":
                raise ImportError(name)
            return super().__getattribute__(name)

    monkeypatch.setitem(sys.modules, "lazy", Lazy("lazy"))
    assert list(readahead.modules())


def test_where_proc_does_not_tell_the_modules_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> dict[str, set[int]]:
        raise PermissionError("/proc/self/pagemap")

    monkeypatch.setattr(readahead, "_touched", refuse)
    readahead.note()
    assert json.loads(readahead.noted_file().read_text())


def test_pages_that_lie_close_are_one_span() -> None:
    assert readahead._spans([0, 1, 20, 500]) == [(0, 21 * PAGE), (500 * PAGE, PAGE)]


def test_what_was_noted_is_in_memory_afterwards_and_no_more(tmp_path: Path) -> None:
    file = big_file(tmp_path)
    note((file, [(1 << 20, 1 << 20)]), (tmp_path / "gone.so", []))
    readahead.read_ahead()
    assert soon_in_memory(file, 1 << 20)
    assert soon_in_memory(file, (2 << 20) - 1)
    assert not in_memory(file, 3 << 20)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    file = big_file(tmp_path)
    note((file, []))
    readahead.read_ahead()
    assert soon_in_memory(file, 0)
    assert soon_in_memory(file, (4 << 20) - 1)


def test_scarce_memory_is_left_alone(tmp_path: Path) -> None:
    file = big_file(tmp_path)
    note((file, [(0, 1 << 50)]))
    readahead.read_ahead()
    assert not in_memory(file, 0)


def test_a_broken_note_is_no_fault() -> None:
    note()
    readahead.noted_file().write_text("{")
    readahead.read_ahead()
