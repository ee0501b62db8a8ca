"""Grading by kind: pairs of public fault reports, and many neighbours of each, with their labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cola_envs.grading import grade_answers

CASES = [
    json.loads(line)
    for line in Path(__file__).with_name("grading_cases.jsonl").read_text(encoding="utf-8").splitlines()
]
KINDS = sorted({case["kind"] for case in CASES})


@pytest.mark.parametrize("kind", KINDS)
def test_no_wrong_answer_is_paid_and_no_right_one_refused(kind):
    cases = [case for case in CASES if case["kind"] == kind]
    verdicts = grade_answers([c["gold"] for c in cases], [c["prediction"] for c in cases], deadline=20)
    wrong = [
        (case["equivalent"], case["gold"], case["prediction"], verdict.status)
        for case, verdict in zip(cases, verdicts, strict=True)
        if verdict.correct is not case["equivalent"]
    ]
    assert wrong == []


def test_the_labels_do_not_contradict_one_another():
    labels = {(case["gold"], case["prediction"]): case["equivalent"] for case in CASES}
    assert len(labels) == len(CASES)
    assert all(label or gold != answer for (gold, answer), label in labels.items())
