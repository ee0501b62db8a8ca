"""The measurement of engines, on as little as shows that it counts right."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from benchmarks.speed.engines import measure_engine, measure_memory, measure_stock

# Not importorskip: importing alfworld makes a folder in the user's cache and sets a variable.
pytestmark = pytest.mark.skipif(
    find_spec("alfworld") is None, reason="needs the engine: pip install 'cola-rl[alfworld]'"
)


def test_the_parts_count_what_they_play() -> None:
    engine = measure_engine(rows=2, workers=1, level=1, commands=3)
    assert engine["commands"] == 6
    assert engine["commands_per_cpu_s"] == pytest.approx(1e3 / engine["cpu_ms_per_command"], rel=0.01)
    beside = measure_stock(1, 3)
    assert beside["commands"] == 3
    assert beside["ratio"] > 1
    memory = measure_memory(10, 1, parts=2)
    assert (memory["resets"], len(memory["worker_resident_mib"])) == (10, 2)
    json.dumps([engine, beside, memory])
