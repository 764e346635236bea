"""Where something stands in a YAML file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from leviathan_train.config.lines import broken_at, places, shown


def test_each_key_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: 1\nb:\n  - c: 2\n    d: {e: 3}\n")
    found = places(path)
    assert found.lines[("b", 0, "d", "e")] == 4
    assert found.line_of(("b", 0, "missing")) == 2
    assert found.line_of(("missing",)) is None


def test_all_lines_of_a_doubled_key_are_known(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: 1\nb: {c: 1, c: 2}\na: 2\na: 3\n")
    assert places(path).twice == {("a",): [1, 3, 4], ("b", "c"): [2, 2]}


@pytest.mark.parametrize("text", ["a: [", "a: &x [*x]\n", "\xff", ""])
def test_a_file_that_cannot_be_walked_has_no_places(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("latin-1"))
    assert places(path).twice == {}
    assert places(tmp_path / "none").lines == {}


def test_a_path_is_shown_as_people_write_it() -> None:
    assert shown(("datasets", 0, "type", "field")) == "datasets[0].type.field"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('a: 1\nb: "foo\nc: 2\n\n', (2, 4)),
        ("a: 1\nb: 'foo\nc: 2\n", (2, 4)),
        ("a: 1\n b: 2\n", (2, 3)),
        ("a:\n\t- 1\n", (2, 1)),
    ],
)
@pytest.mark.parametrize("loader", ["SafeLoader", "CSafeLoader"])
def test_an_unclosed_quote_is_told_where_it_begins(
    text: str, place: tuple[int, int], loader: str
) -> None:
    with pytest.raises(yaml.YAMLError) as raised:
        yaml.load(text, getattr(yaml, loader))
    assert broken_at(raised.value) == place
    assert broken_at(yaml.YAMLError("no place")) is None
