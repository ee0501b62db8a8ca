"""Grading of made answers, from a fixed seed: hostile ones, and pairs whose label their making fixes."""

from __future__ import annotations

import time

from cola_envs.grading import grade_answers

from .grading_pairs import hostile, pairs

#: Processor time for one hostile answer; the slowest of those below takes a tenth of it.
MOST_SECONDS = 2.0


def test_a_thousand_hostile_answers_are_wrong_and_harmless(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers = hostile(seed=20260, count=1000)
    for gold in ("7919", "x^2+7919", "(7919,7920]"):
        slowest = 0.0
        for answer in answers:
            begin = time.process_time()
            (verdict,) = grade_answers([gold], [answer])
            slowest = max(slowest, time.process_time() - begin)
            assert not verdict.correct, (gold, answer)
            assert verdict.status in ("ok", "refused", "timeout", "error")
        assert slowest < MOST_SECONDS
    assert grade_answers(["7919"], ["7918+1"])[0].correct
    assert list(tmp_path.iterdir()) == []


def test_eight_hundred_unequal_answers_are_all_refused():
    _, unequal = pairs(seed=20261, rounds=6)
    assert len(unequal) >= 800
    verdicts = grade_answers([gold for gold, _ in unequal], [answer for _, answer in unequal], deadline=20)
    assert [pair for pair, verdict in zip(unequal, verdicts, strict=True) if verdict.correct] == []


def test_equal_answers_are_all_accepted():
    equal, _ = pairs(seed=20262, rounds=6)
    assert len(equal) >= 500
    verdicts = grade_answers([gold for gold, _ in equal], [answer for _, answer in equal], deadline=20)
    assert [pair for pair, verdict in zip(equal, verdicts, strict=True) if not verdict.correct] == []
