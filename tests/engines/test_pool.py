"""Workers that crash, hang, talk and die: the pool on an engine that does what it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cola_envs.engines import EngineError, EnginePool, Failure, GameError, Reply

TOY = "tests.engines.toy:ToyEngine"
ROOT = Path(__file__).parents[2]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not.

    The first thread of a process that was killed is a zombie before the others are gone, and its parent
    cannot reap it until they are.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(pids: list[int], seconds: float = 10.0) -> list[int]:
    limit = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < limit:
        time.sleep(0.05)
    return left


def texts(answers: list[Any]) -> list[str]:
    return [answer.text for answer in answers]


@pytest.fixture(scope="module")
def shared() -> Iterator[EnginePool]:
    pool = EnginePool(TOY, num_rows=4, num_workers=2, deadline=1.0)
    yield pool
    pool.close()


@pytest.fixture
def pool(shared: EnginePool) -> EnginePool:
    """Rows 0 and 2 on one worker, 1 and 3 on the other; the row's game is ten times its number."""
    shared.reset([0, 1, 2, 3], [0, 10, 20, 30])
    return shared


def test_rows_are_answered_in_order_by_two_processes(pool: EnginePool) -> None:
    answers = pool.step([3, 0, 1], ["add 3", "add 1", "add 2"])
    assert texts(answers) == ["Now 33.", "Now 1.", "Now 12."]
    pids = {answer.info["pid"] for answer in answers if isinstance(answer, Reply)}
    assert pids == set(pool.pids)
    assert len(pids) == 2
    assert os.getpid() not in pids


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        ("crash", "ended with code 3"),
        ("hang", "did not answer within 1 seconds"),
        ("raise", "RuntimeError: something broke"),
        ("exit", "SystemExit: translation failed"),
    ],
)
def test_a_failure_costs_its_own_row_alone(pool: EnginePool, command: str, cause: str) -> None:
    pool.step([0, 1, 2, 3], ["add 1"] * 4)
    before = pool.pids
    restarts = pool.usage.restarts
    answers = pool.step([0, 1, 2], [command, "add 1", "add 1"])
    assert isinstance(answers[0], Failure)
    assert cause in answers[0].cause
    assert texts(answers[1:]) == ["Now 12.", "Now 22."]
    assert pool.usage.restarts == restarts + 1
    assert len(set(before) & set(pool.pids)) == 1
    with pytest.raises(RuntimeError, match="row 0 has no game; reset it first"):
        pool.step([0], ["add 1"])
    pool.reset([0], [100])
    assert texts(pool.step([0, 2, 3], ["add 1"] * 3)) == ["Now 101.", "Now 23.", "Now 32."]


def test_a_worker_killed_between_steps_is_replaced_without_a_trace(pool: EnginePool) -> None:
    pool.step([0, 2], ["add 5", "add 6"])
    killed = pool.pids[0]
    os.kill(killed, signal.SIGKILL)
    assert wait_for_end([killed]) == []
    assert texts(pool.step([0, 2], ["add 1", "add 1"])) == ["Now 6.", "Now 27."]
    assert killed not in pool.pids


def test_answers_are_kept_where_a_worker_dies_with_the_last_of_them(
    pool: EnginePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    select, dying = pool._select, pool.pids[0]
    restarts = pool.usage.restarts

    def late(due: Any, wait: float) -> set[int]:
        assert wait_for_end([dying]) == []  # before the answers are read, as on a busy machine
        return select(due, wait)

    monkeypatch.setattr(pool, "_select", late)
    assert texts(pool.step([0, 1, 2], ["add 1", "add 2", "last"])) == ["Now 1.", "Now 12.", "Now 20."]
    assert pool.usage.restarts == restarts + 1
    monkeypatch.undo()
    assert texts(pool.step([0, 1, 2], ["add 1"] * 3)) == ["Now 2.", "Now 13.", "Now 21."]
    assert dying not in pool.pids


def test_a_worker_that_reads_no_more_is_given_up(pool: EnginePool) -> None:
    stopped = pool.pids[1]
    os.kill(stopped, signal.SIGSTOP)
    answers = pool.step([1], ["add 1" + " " * 1_000_000])  # far more than a pipe holds
    assert isinstance(answers[0], Failure)
    assert not alive(stopped)


def test_what_an_engine_prints_goes_nowhere(pool: EnginePool, capfd: pytest.CaptureFixture[str]) -> None:
    assert texts(pool.step([0, 1], ["print", "print"])) == ["Now 0.", "Now 10."]
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_game_that_cannot_be_played_leaves_its_worker_alone(pool: EnginePool) -> None:
    before = pool.pids
    with pytest.raises(GameError, match="'chess' is no number"):
        pool.reset([0], ["chess"])
    assert pool.pids == before
    assert texts(pool.step([2], ["add 1"])) == ["Now 21."]


def test_a_game_that_crashes_the_engine_twice_is_an_error(pool: EnginePool) -> None:
    with pytest.raises(EngineError, match=r"row 0 failed twice to begin a game: .* code 7"):
        pool.reset([0], ["crash"])
    assert texts(pool.step([2], ["add 1"])) == ["Now 21."]


def test_a_restored_row_is_replayed_when_it_is_stepped(pool: EnginePool) -> None:
    pool.step([0], ["add 1"])
    state = pool.transcript(0)
    pool.step([0], ["add 10"])
    replayed = pool.usage.replayed
    pool.restore(0, state)
    pool.restore(3, state)
    assert pool.usage.replayed == replayed  # nothing yet
    assert texts(pool.step([0, 3], ["add 1", "add 2"])) == ["Now 2.", "Now 3."]
    assert pool.usage.replayed == replayed + 4


def test_a_row_restored_to_where_it_stands_is_not_replayed(pool: EnginePool) -> None:
    pool.step([0], ["add 1"])
    pool.restore(0, pool.transcript(0))
    replayed = pool.usage.replayed
    assert texts(pool.step([0], ["add 1"])) == ["Now 2."]
    assert pool.usage.replayed == replayed


def test_a_query_reaches_the_engine_and_changes_nothing(pool: EnginePool) -> None:
    pool.step([1], ["add 4"])
    assert pool.query(1, "total", 100) == 114
    assert pool.transcript(1).commands == ("add 4",)
    assert texts(pool.step([1], ["add 1"])) == ["Now 15."]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("no_such",), "ToyEngine has no query 'no_such'; it has total"),
        (("totals",), "ToyEngine has no query 'totals'; it has total"),
        (("total", 1, 2), r"the query 'total' of ToyEngine does not take \(1, 2\): too many"),
        (("__init__",), "'__init__' is no query"),
        (("_private",), "'_private' is no query"),
        (("reset", 5), "'reset' is no query"),
        (("step", "win"), "'step' is no query"),
        (("close",), "'close' is no query"),
        ((5,), "5 is no query"),
    ],
)
def test_a_query_that_an_engine_does_not_have_costs_no_worker(
    pool: EnginePool, call: Any, message: str
) -> None:
    pool.step([1, 3], ["add 4", "add 5"])
    before = pool.pids
    with pytest.raises(GameError, match=message):
        pool.query(1, *call)
    assert pool.pids == before
    assert texts(pool.step([1, 3], ["add 1", "add 1"])) == ["Now 15.", "Now 36."]


def test_numbers_of_numpy_are_taken() -> None:
    pool = EnginePool(TOY, num_rows=np.int64(3), num_workers=np.int32(2), deadline=np.float32(1))  # type: ignore[arg-type]
    assert (pool.num_rows, pool.num_workers, pool.deadline) == (3, 2, 1.0)
    assert {type(pool.num_rows), type(pool.num_workers), type(pool.deadline)} == {int, float}


def test_an_engine_that_does_not_start_says_why() -> None:
    for name, why in ((f"{TOY}s", "AttributeError"), ("no.module:Engine", "ModuleNotFoundError")):
        pool = EnginePool(name, num_rows=1)
        for _ in range(2):
            with pytest.raises(EngineError, match=f"does not start: {why}"):
                pool.reset([0], [1])
        assert pool.pids == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "toy"}, "module:callable"),
        ({"engine": "__main__:Engine"}, "module that another process can import"),
        ({"num_rows": 0}, "num_rows must be at least 1, got 0"),
        ({"num_workers": True}, "num_workers must be"),
        ({"num_workers": 1.0}, r"num_workers must be an integer, got 1\.0"),
        ({"deadline": 0}, "deadline must be above 0"),
        ({"deadline": "a"}, "deadline must be a number, got 'a'"),
        ({"deadline": None}, "deadline must be a number, got None"),
        ({"deadline": float("nan")}, "deadline must be a finite number, got nan"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnginePool(**{"engine": TOY, "num_rows": 2, **settings})


def test_closing_ends_workers_and_their_children_and_may_be_repeated() -> None:
    pool = EnginePool(TOY, {"scale": 2}, num_rows=2, num_workers=2)
    pool.close()
    pool.reset([0, 1], [1, 2])
    child = int(texts(pool.step([0], ["child"]))[0])
    pids = [*pool.pids, child]
    assert all(map(alive, pids))
    pool.close()
    pool.close()
    assert not any(map(alive, pids[:2]))
    assert wait_for_end(pids) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids[:2])  # no zombies either
    assert texts(pool.step([1], ["add 3"])) == ["Now 8."]  # replayed
    pids = list(pool.pids)
    del pool
    assert not any(map(alive, pids))


@pytest.mark.parametrize("then", ["time.sleep(1e6)", "pool.step([1], ['hang'])"])
def test_workers_die_with_a_parent_that_is_killed(then: str) -> None:
    code = (
        "import threading, time\n"
        "from cola_envs.engines import EnginePool\n"
        f"pool = EnginePool({TOY!r}, num_rows=2, num_workers=2)\n"
        "pool.reset([0, 1], [1, 2])\n"
        "pids = [pool.step([0], ['child'])[0].text, *pool.pids]\n"
        # Said a little later, when the worker hangs already.
        "threading.Timer(0.3, lambda: print(*pids, flush=True)).start()\n"
        f"{then}\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 3
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_for_end(pids) == []


def test_a_parent_that_ends_says_nothing_and_leaves_nothing() -> None:
    code = (
        "import sys\n"
        "from cola_envs.engines import EnginePool\n"
        "argv = list(sys.argv)\n"
        f"pool = EnginePool({TOY!r}, num_rows=2)\n"
        "pool.reset([0, 1], [1, 2])\n"
        "assert sys.argv == argv\n"
        "print(*pool.pids)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr == ""
    assert wait_for_end([int(word) for word in done.stdout.split()]) == []


def test_a_forked_child_uses_workers_of_its_own(pool: EnginePool) -> None:
    pool.step([0], ["add 1"])
    before = pool.pids
    child = os.fork()
    if child == 0:
        try:
            right = texts(pool.step([0], ["add 1"])) == ["Now 2."] and not set(pool.pids) & set(before)
            pool.close()
        except BaseException:
            right = False
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.pids == before
    assert texts(pool.step([0], ["add 5"])) == ["Now 6."]
