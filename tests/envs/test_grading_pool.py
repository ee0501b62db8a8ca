"""The workers behind the graders' slow path: deadlines, deaths, starts and ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cola_envs.grading import grade_answers
from cola_envs.grading import pool as pool_module
from cola_envs.grading.pool import Pool, shared_pool
from cola_envs.grading.verdicts import every, some

from .grading_pairs import CLOSED, PROVEN, claim

REPO = Path(__file__).parents[2]
#: A sum that sympy does not finish within seconds: what a deadline is for.
ENDLESS = "\\sum_{k=1}^{10^7} \\frac{1}{k^3+1}"


def test_an_item_past_its_deadline_is_killed_and_the_next_is_right():
    pool = Pool(size=1)
    try:
        assert pool.run([claim("1", "1")], deadline=20) == [(True, "ok")]
        begin = time.perf_counter()
        outcomes = pool.run([claim("1", ENDLESS), claim(CLOSED, PROVEN)], deadline=0.7)
        assert outcomes == [(False, "timeout"), (True, "ok")]
        assert time.perf_counter() - begin < 30
    finally:
        pool.close()


def test_the_claims_of_an_answer_share_one_deadline():
    pool = Pool(size=1)
    hard = [claim(str(number), ENDLESS) for number in range(1, 7)]
    try:
        pool.run([claim("1", "1")], deadline=20)
        begin = time.perf_counter()
        outcomes = pool.run([some(hard), every([claim(CLOSED, PROVEN), claim("1", "1")])], deadline=0.7)
        assert outcomes == [(False, "timeout"), (True, "ok")]
        # Six deadlines, each with the start of a worker, would take longer.
        assert len(pool.workers) == 1
        assert time.perf_counter() - begin < 30
    finally:
        pool.close()


def test_claims_that_do_not_matter_any_more_are_not_tried():
    pool = Pool(size=1)
    false, true, hard = claim("1", "2"), claim("2", "1+1"), claim("1", ENDLESS)
    try:
        outcomes = pool.run([some([true, hard]), every([false, hard]), some([false, true])], deadline=2)
        assert outcomes == [(True, "ok"), (False, "ok"), (True, "ok")]
    finally:
        pool.close()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="processor time is not counted here")
def test_the_deadline_counts_the_workers_own_time_and_not_the_clock():
    pool = Pool(size=1)
    try:
        pool.run([claim("1", "1")], deadline=20)
        (worker,) = pool.workers
        # A stopped process is what a worker is on a busy machine: the clock goes on, its own time does not.
        timers = [threading.Timer(0.05, os.kill, (worker.process.pid, signal.SIGSTOP)),
                  threading.Timer(2.0, os.kill, (worker.process.pid, signal.SIGCONT))]  # fmt: skip
        for timer in timers:
            timer.start()
        time.sleep(0.3)
        assert pool.run([claim(CLOSED, PROVEN)], deadline=1.0) == [(True, "ok")]
        assert worker in pool.workers
    finally:
        pool.close()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="processor time is not counted here")
def test_a_generous_limit_by_the_clock_ends_an_item_too(monkeypatch):
    monkeypatch.setattr("cola_envs.grading.pool.WALL_LIMIT", 2.0)
    pool = Pool(size=1)
    try:
        pool.run([claim("1", "1")], deadline=20)
        (worker,) = pool.workers
        os.kill(worker.process.pid, signal.SIGSTOP)
        assert pool.run([claim(CLOSED, PROVEN)], deadline=0.5) == [(False, "timeout")]
        assert pool.run([claim(CLOSED, PROVEN)], deadline=20) == [(True, "ok")]
    finally:
        pool.close()


def _start_and_die(monkeypatch, deaths: int) -> list[int]:
    """Let so many workers end while they start; return a list that grows with every start."""
    started: list[int] = []
    real = pool_module._Worker

    class Dying(real):
        def __init__(self):
            super().__init__()
            started.append(self.process.pid)
            if len(started) <= deaths:
                self.process.kill()

    monkeypatch.setattr(pool_module, "_Worker", Dying)
    return started


def test_a_worker_that_dies_while_it_starts_is_started_again(monkeypatch):
    started = _start_and_die(monkeypatch, deaths=2)
    pool = Pool(size=1)
    try:
        assert pool.run([claim("2", "1+1")], deadline=20) == [(True, "ok")]
        assert len(started) == 3
    finally:
        pool.close()


def test_workers_that_keep_dying_while_they_start_are_an_error(monkeypatch):
    started = _start_and_die(monkeypatch, deaths=100)
    pool = Pool(size=1)
    try:
        with pytest.raises(RuntimeError, match=r"3 grading workers in a row ended while starting.*code -9"):
            pool.run([claim("2", "1+1")], deadline=20)
        assert len(started) == 3
        assert pool.workers == set()
    finally:
        pool.close()


def test_the_start_of_a_worker_is_not_charged_to_the_first_item():
    pool = Pool(size=1)
    try:
        # Importing sympy takes longer than this deadline; the item itself takes milliseconds.
        assert pool.run([claim("2", "1+1")], deadline=0.3) == [(True, "ok")]
    finally:
        pool.close()


def test_a_worker_that_dies_costs_its_item_alone():
    pool = Pool(size=1)
    try:
        pool.run([claim("1", "1")], deadline=20)
        (worker,) = pool.workers
        timer = threading.Timer(0.5, os.kill, (worker.process.pid, signal.SIGKILL))
        timer.start()
        outcomes = pool.run([claim("1", ENDLESS), claim("1", "1")], deadline=20)
        assert outcomes == [(False, "error"), (True, "ok")]
    finally:
        pool.close()


@pytest.mark.skipif(not Path("/proc/self/limits").is_file(), reason="limits are read from /proc")
def test_a_workers_memory_is_bounded():
    pool = Pool(size=1)
    try:
        pool.run([claim("1", "1")], deadline=20)
        (worker,) = pool.workers
        limits = Path(f"/proc/{worker.process.pid}/limits").read_text()
        assert re.search(r"Max address space\s+2147483648\s+2147483648", limits)
    finally:
        pool.close()


def test_workers_are_replaced_after_their_share_of_items(monkeypatch):
    monkeypatch.setattr("cola_envs.grading.pool.RECYCLE_AFTER", 2)
    pool = Pool(size=1)
    try:
        pool.run([claim("1", "1")], deadline=20)
        (first,) = pool.workers
        assert pool.run([claim("1", "1"), claim("2", "1"), claim("2", "2")], deadline=20) == [
            (True, "ok"),
            (False, "ok"),
            (True, "ok"),
        ]
        assert first not in pool.workers
        assert first.process.poll() is not None
    finally:
        pool.close()


def test_workers_end_with_the_process_and_importing_stays_light(tmp_path):
    script = tmp_path / "unguarded.py"  # without the __main__ guard that multiprocessing would need
    script.write_text(
        "import sys\n"
        "from cola_envs.grading import grade_answers\n"
        "from cola_envs.grading.pool import shared_pool\n"
        "grade_answers(['1'], ['2'])\n"
        "assert not shared_pool().workers, 'a worker was started before it was needed'\n"
        "assert grade_answers(['n(n+1)/2'], ['\\\\sum_{k=1}^{n} k'], deadline=20)[0].correct\n"
        "heavy = {'sympy', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(*[w.process.pid for w in shared_pool().workers])\n"
    )
    env = os.environ | {"PYTHONPATH": str(REPO)}
    for command in ([str(script)], ["-c", script.read_text()]):
        done = subprocess.run(
            [sys.executable, *command], env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        pids = [int(pid) for pid in done.stdout.split()]
        assert pids
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def test_closing_the_pool_ends_its_workers_and_it_starts_again():
    assert grade_answers([CLOSED], [PROVEN + "+0"], deadline=20)[0].correct
    shared_pool().close()
    assert grade_answers([CLOSED], ["0+" + PROVEN], deadline=20)[0].correct
