"""Signs on terminals and in encodings that lack them."""

from __future__ import annotations

import io
import os
import pty

import pytest

from leviathan_train.system import signs


def written(text: str, encoding: str) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    signs.adapt(stream)
    stream.write(text)
    stream.flush()
    return raw.getvalue().decode(encoding)


def test_a_sign_has_an_ascii_form_where_the_encoding_lacks_it() -> None:
    line = f"{signs.OK} done {signs.WARNING} take care {signs.FAULT} no {signs.RESUME} again"
    assert written(line, "ascii") == "[ok] done [!]  take care [x] no [>] again"
    assert written(line, "utf-8") == line


def test_other_characters_are_kept_where_they_can_be() -> None:
    assert written("✅ été 訓", "latin-1") == "[ok] été ?"


def test_every_sign_has_an_ascii_form() -> None:
    own = {value for name, value in vars(signs).items() if name.isupper() and name != "ASCII"}
    assert len(own) >= 6
    for sign in own:
        assert signs.plain(sign).isascii() and "?" not in signs.plain(sign), sign


def test_the_console_gets_ascii_signs_but_its_own_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "linux")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        signs.adapt(stream)
        print("✅ été", file=stream, flush=True)
        assert os.read(ours, 100).decode().split() == ["[ok]", "été"]
    os.close(ours)
