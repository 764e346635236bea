"""Headers of safetensors files, against files that the library itself writes and reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from leviathan_train.system.safetensors import HeaderError, read_header, write_header
from support.anything import JSON


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    tensors = {
        "b": numpy.arange(6, dtype=numpy.float32).reshape(2, 3),
        "a": numpy.ones(5, dtype=numpy.float16),
        "scalar": numpy.array(7, dtype=numpy.int64),
    }
    save_file(tensors, path)
    return path


def test_the_librarys_file_is_read_as_the_library_reads_it(file: Path) -> None:
    header, content = read_header(file), file.read_bytes()
    wanted = load_file(file)
    assert header.keys() == wanted.keys()
    assert {entry.dtype for entry in header.values()} == {"F32", "F16", "I64"}
    for name, entry in header.items():
        assert entry.shape == wanted[name].shape
        assert content[entry.start : entry.start + entry.size] == wanted[name].tobytes()


def test_the_library_reads_a_header_of_ours(file: Path, tmp_path: Path) -> None:
    header, content = read_header(file), file.read_bytes()
    order = list(reversed(header.items()))
    copy = tmp_path / "copy.safetensors"
    data = b"".join(content[entry.start : entry.start + entry.size] for _, entry in order)
    copy.write_bytes(write_header(order) + data)
    wanted, found = load_file(file), load_file(copy)
    assert all((wanted[name] == found[name]).all() for name in wanted)
    length = int.from_bytes(copy.read_bytes()[:8], "little")
    assert length % 8 == 0
    assert json.loads(copy.read_bytes()[8 : 8 + length])["__metadata__"] == {"format": "pt"}


def damaged(content: bytes, header: dict[str, dict[str, object]]) -> bytes:
    """The file with another header."""
    length = int.from_bytes(content[:8], "little")
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def test_what_is_not_sound_is_refused_with_its_reason(file: Path) -> None:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    gap = {**header, "a": {**header["a"], "data_offsets": [10_000, 10_010]}}
    size = {**header, "a": {**header["a"], "shape": [4]}}
    cases = {
        "is empty": b"",
        "is cut off": content[:5],
        "is cut off or its header is damaged": content[:20],
        f"has {len(content) - 1} bytes instead of {len(content)}": content[:-1],
        f"has {len(content) + 1} bytes instead of {len(content)}": content + b"x",
    }
    for reason, what in cases.items():
        file.write_bytes(what)
        with pytest.raises(HeaderError) as refused:
            read_header(file)
        assert str(refused.value) == reason
    for what in (damaged(content, gap), damaged(content, size), damaged(content, {"a": {}})):
        file.write_bytes(what)
        with pytest.raises(HeaderError, match="has a damaged header"):
            read_header(file)
    file.write_bytes(content[:8] + b"[" + content[9:])
    with pytest.raises(HeaderError, match="has a damaged header"):
        read_header(file)


ENTRY = st.dictionaries(
    st.sampled_from(["dtype", "shape", "data_offsets"]),
    JSON | st.sampled_from(["F32", "I8"]) | st.lists(st.integers(0, 16), max_size=3),
)


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.builds(
        lambda header, length, rest: (
            (len(text := json.dumps(header).encode()) + length).to_bytes(8, "little") + text + rest
        ),
        st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), ENTRY | JSON, max_size=3),
        st.sampled_from([0, 0, 0, 1, 1 << 40]),
        st.binary(max_size=16),
    )
)
def test_any_bytes_are_a_header_or_the_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(content)
    try:
        found = read_header(path)
    except HeaderError:
        return
    assert sum(entry.size for entry in found.values()) <= len(content)
