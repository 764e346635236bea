"""Signals are noted while a `with` lasts, and obeyed again after it."""

from __future__ import annotations

import os
import signal

import pytest

from leviathan_train.system.signals import NotedSignals


def test_signals_are_noted_in_order_and_taken_once() -> None:
    with NotedSignals((signal.SIGINT, signal.SIGTERM)) as signals:
        assert not signals
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals
        assert signals.take() == [signal.SIGTERM, signal.SIGINT]
        assert signals.take() == []


def test_an_ignored_signal_is_not_noted() -> None:
    with NotedSignals((signal.SIGINT,), ignored=(signal.SIGHUP,)) as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not signals


def test_the_handlers_before_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with NotedSignals():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_what_the_callback_raises_leaves_the_block_and_restores() -> None:
    def close(number: int) -> None:
        raise SystemExit(128 + number)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, NotedSignals((signal.SIGTERM,)) as signals:
        signals.on_signal = close
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
