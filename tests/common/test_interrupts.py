"""SIGTERM is treated as Ctrl-C, once, and leaves the caller's handlers as they were."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import Any

import pytest

from cola_agents.common.interrupts import Terminated, exit_status, hold_interrupts, sigterm_as_interrupt


@pytest.fixture
def handler() -> Any:
    """A handler of the caller's; it and Ctrl-C's must be back at the end."""
    numbers: list[int] = []

    def own(number: int, frame: Any) -> None:
        numbers.append(number)

    before = signal.signal(signal.SIGTERM, own)
    yield numbers
    assert signal.getsignal(signal.SIGTERM) is own
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGTERM, before)


def test_sigterm_is_raised_as_an_interrupt(handler):
    with pytest.raises(KeyboardInterrupt) as raised, sigterm_as_interrupt() as received:
        signal.raise_signal(signal.SIGTERM)
    assert isinstance(raised.value, Terminated)
    assert received == [signal.SIGTERM]
    assert exit_status(raised.value) == 143
    assert exit_status(KeyboardInterrupt()) == 130
    signal.raise_signal(signal.SIGTERM)
    assert handler == [signal.SIGTERM], "the caller's handler is back"


def test_a_second_sigterm_does_not_stop_what_the_first_brought_about(handler):
    saved = []

    @sigterm_as_interrupt()
    def learn() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            saved.append("the agent")

    with pytest.raises(Terminated):
        learn()
    assert saved


@pytest.mark.parametrize("patient", [True, False])
def test_sigterm_waits_for_the_end_of_a_held_block(handler, patient, capsys):
    ended = []

    @sigterm_as_interrupt()
    def learn() -> None:
        with hold_interrupts():
            with hold_interrupts(patient=patient):
                for _ in range(2):
                    signal.raise_signal(signal.SIGTERM)
                ended.append("inner")
            ended.append("outer")
        ended.append("never")

    with pytest.raises(Terminated):
        learn()
    assert ended == ["inner", "outer"]
    assert "finishing this update first" in capsys.readouterr().err


def test_a_handler_of_the_callers_own_is_held_too(handler):
    @hold_interrupts(patient=True)
    def improve() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert handler == []

    with pytest.raises(KeyboardInterrupt):
        improve()
    assert handler == [signal.SIGTERM]


@pytest.mark.parametrize("patient", [True, False])
def test_a_signal_that_a_held_block_kept_is_not_lost_where_the_block_fails(handler, patient):
    @hold_interrupts(patient=patient)
    def improve() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise FloatingPointError

    with pytest.raises(FloatingPointError):
        improve()
    assert handler == [signal.SIGTERM]


def test_a_sigterm_behind_a_held_ctrl_c_is_not_lost(handler):
    @hold_interrupts(patient=True)
    def improve() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)

    with sigterm_as_interrupt() as received, pytest.raises(KeyboardInterrupt):
        improve()
    assert received == [signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_of_a_block_that_fails_is_raised_and_tells_of_the_error(handler, number):
    """So that whoever passes over the error of a run, to make the next one, stops all the same."""

    @sigterm_as_interrupt()
    def runs() -> None:
        for _ in range(2):
            with suppress(FloatingPointError), hold_interrupts():
                signal.raise_signal(number)
                raise FloatingPointError

    with pytest.raises(KeyboardInterrupt) as raised:
        runs()
    assert isinstance(raised.value, Terminated) == (number == signal.SIGTERM)
    assert isinstance(raised.value.__context__, FloatingPointError)


def test_a_forked_child_dies_of_sigterm(handler):
    with sigterm_as_interrupt():
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_sigterm_that_is_ignored_stays_so(handler):
    own = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with sigterm_as_interrupt(), hold_interrupts():
        signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, own)


def test_other_threads_change_nothing(handler):
    ran: list[int] = []

    def run() -> None:
        with sigterm_as_interrupt(), hold_interrupts():
            ran.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ran == [1]
