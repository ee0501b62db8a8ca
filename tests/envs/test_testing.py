"""The conformance checks pass what is right and name what is wrong."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

from cola_envs import Turn
from cola_envs.env import CoLAEnv
from cola_envs.episodes import Episodes
from cola_envs.testing import ByteTokenizer, FakeBackbone, check_env, check_task
from tests.envs.tiny import Copy, Counter, Talk


@pytest.mark.parametrize("factory", [Copy, Talk, Counter])
def test_good_tasks_pass(factory: Any) -> None:
    check_task(factory)


class Global(Copy):
    def reset(self, rng: np.random.Generator) -> str:
        return super().reset(rng) + str(random.random() > 2)


class Entropy(Copy):
    def reset(self, rng: np.random.Generator) -> str:
        return super().reset(np.random.default_rng()) + str(np.random.default_rng().random())


class Arrays(Copy):
    """Its turns have new arrays and NaNs each time."""

    def reset(self, rng: np.random.Generator) -> str:
        prompt = super().reset(rng)
        self.info = {"start": np.array([np.nan, 1.0])}
        return prompt

    def step(self, text: str) -> Turn:
        words = np.array([text[:1], "é"])
        inner = {"single": np.float32("nan"), "several": [np.zeros(2), float("nan")]}
        return Turn(info={"array": np.array([len(text), np.nan]), "words": words, "inner": inner})


class Drifting(Copy):
    """Its turns have an array that is another one in each play."""

    plays = itertools.count()

    def step(self, text: str) -> Turn:
        return Turn(info={"array": np.array([next(self.plays), np.nan])})


class Shared(Talk):
    heard_by_all: list[str] = []  # noqa: RUF012 (the mistake under test)

    def step(self, text: str) -> Turn:
        self.heard_by_all.append(text)
        return Turn(reward=float(len(self.heard_by_all)))


class Forgetful(Counter):
    def restore(self, state: list[str]) -> None:
        self.seen = []


class Nan(Copy):
    def step(self, text: str) -> Turn:
        return Turn(reward=float("nan"))


class Mute(Copy):
    def reset(self, rng: np.random.Generator) -> str:
        return ""


class Bare(Copy):
    def step(self, text: str) -> Any:
        return 1.0


class Typed(Copy):
    """Says ``values`` in ``field`` of its turns, one after another, and the first of them at a reset."""

    values: tuple[Any, ...] = (1, 1)
    field = "field"

    def step(self, text: str) -> Turn:
        return Turn(info={self.field: self.values[len(text) % len(self.values)]})


def typed(*values: Any, field: str = "field") -> Any:
    return type("Typed", (Typed,), {"values": values, "field": field})


class AtReset(Copy):
    def step(self, text: str) -> Turn:
        return Turn(info={"digit": int(self.digit)})


@pytest.mark.parametrize(
    "factory",
    [
        typed("", "a"),
        typed(1, 2),
        typed(None, None),
        typed(np.zeros(2), np.ones(2)),
        typed({"a": 1}, {"b": ""}),
    ],
)
def test_fields_of_one_type_pass(factory: Any) -> None:
    check_task(factory)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (typed(None, 1), r"info\['field'\] is (NoneType|int) here and (NoneType|int) elsewhere"),
        (typed("", None), r"info\['field'\]"),
        (typed(1, 2.5), "int here and float elsewhere|float here and int elsewhere"),
        (typed(True, 1), "bool"),
        (typed((), []), "tuple"),
        (typed(np.zeros(2), np.zeros(3)), "an array of float64"),
        (typed({"a": 1}, {"a": None}), r"info\['field'\]\['a'\]"),
        (typed({"a": 1}, 1), "dict"),
        (typed(1, 2**63), "too large"),
        (typed(1, "", field="success"), "success"),
        (typed("1", "1", field="num_tokens"), "num_tokens"),
        (typed(1, 2, field="num_tokens"), "the episode writes itself"),
        (typed({}, {}, field="final_info"), "Gymnasium writes"),
        (type("Masked", (Copy,), {"step": lambda self, text: Turn(info={"a": 1, "_a": 1})}), "_a"),
        (AtReset, r"info\['digit'\]"),
    ],
)
def test_fields_that_change_their_type_fail(factory: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_task(factory)


def test_fields_with_arrays_and_nan_pass() -> None:
    check_task(Arrays)
    check_env("CoLA-Text-v0", task=Arrays, model=FakeBackbone(), max_tokens=12)


def test_an_environment_whose_fields_change_their_type_fails() -> None:
    with pytest.raises(AssertionError, match=r"info\['field'\]"):
        check_env("CoLA-Text-v0", task=typed(None, 1), model=FakeBackbone(), max_tokens=12)


def refused(**fields: Any) -> Any:
    return type("Refused", (Copy,), {"step": lambda self, text: Turn(**fields)})


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (refused(done="no"), "Turn.done .* got 'no'"),
        (refused(reward=None), "Turn.reward .* got None"),
        (refused(text=None), "Turn.text"),
        (refused(info={1: 2}), "Turn.info"),
        (
            type("NoDict", (Copy,), {"info": property(lambda self: None, lambda self, value: None)}),
            "task.info",
        ),
        (Global, "global random state"),
        (Entropy, "take all randomness from the rng"),
        (Drifting, "take all randomness from the rng"),
        (Shared, "share no state|another episode"),
        (Forgetful, "restored after 1 segments went on differently"),
        (Nan, "finite"),
        (Mute, "non-empty str"),
        (Bare, "must return a cola_envs.Turn"),
    ],
)
def test_bad_tasks_fail_with_their_fault(factory: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_task(factory)


@pytest.mark.parametrize("level", ["latent", "token"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"world_temperature": 1.0},
        {"budget_end": "truncate", "max_tokens": 9},
        {"prior_coef": 0.1, "observation": "features"},
    ],
)
def test_good_environments_pass(level: Any, settings: dict[str, Any]) -> None:
    env_id = "CoLA-Text-v0" if level == "latent" else "CoLA-Text-Token-v0"
    for task in (Copy, Talk, Counter):
        check_env(env_id, task=task, model=FakeBackbone(level), **settings)


def test_environments_of_several_tokens_an_action_pass() -> None:
    check_env("CoLA-Text-v0", task=Talk, model=FakeBackbone(tokens_per_action=3, max_length=60))


def test_an_environment_whose_rows_meddle_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Episodes.step

    def meddling(self: Episodes, rows: Any, actions: Any, **options: Any) -> Any:
        return step(self, rows, [max(actions)] * len(rows), **options)

    monkeypatch.setattr(Episodes, "step", meddling)
    with pytest.raises(AssertionError, match="differs from the single one"):
        check_env("CoLA-Text-v0", task=Copy, model=FakeBackbone())


def test_an_environment_that_forgets_its_text_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    step = CoLAEnv.step

    def forgetful(self: CoLAEnv, action: Any) -> Any:
        result = step(self, action)
        result[4].pop("text", None)
        return result

    monkeypatch.setattr(CoLAEnv, "step", forgetful)
    with pytest.raises(AssertionError, match=r"info\['text'\] must be a str"):
        check_env("CoLA-Text-v0", task=Copy, model=FakeBackbone())


# ---------------------------------------------------------------- FakeBackbone


def test_byte_tokenizer_is_lossless_and_leaves_out_the_end() -> None:
    tokenizer = ByteTokenizer()
    text = "a é 终。\n"
    assert tokenizer.decode([*tokenizer.encode(text), 0]) == text
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"
    assert max(tokenizer.encode(text)) < len(tokenizer)


def test_hidden_states_follow_from_the_tokens_alone() -> None:
    backbone = FakeBackbone()
    first, second = backbone.session(1), backbone.session(3)
    first.load([0], [[5, 6, 7]])
    second.load([2], [[5]])
    second.extend([2], [[6, 7]])
    for read in ("hidden", "features", "prior"):
        np.testing.assert_array_equal(getattr(first, read)([0]), getattr(second, read)([2]))
    assert not np.array_equal(first.hidden([0]), first.features([0]))


def test_outcomes_are_the_distribution_that_decode_draws_from() -> None:
    session = FakeBackbone().session(1)
    session.load([0], [[5, 6]])
    ids, logprobs = session.outcomes([0], [3], top_k=4)
    assert np.exp(logprobs).sum() == pytest.approx(1.0, abs=1e-5)
    table = dict(zip(ids[0, 0].tolist(), logprobs[0, 0].tolist(), strict=True))
    counts = dict.fromkeys(table, 0)
    for u in (np.arange(1000) + 0.5) / 1000:
        decoded = session.decode([0], np.array([3]), np.array([u]), 1.0)
        token = int(decoded.tokens[0][0])
        counts[token] += 1
    for token, count in counts.items():
        assert count / 1000 == pytest.approx(np.exp(table[token]), abs=2e-3)
    assert session.decode([0], np.array([3])).tokens[0][0] == ids[0, 0, 0]


def test_a_text_behind_turns_that_all_end_their_episode_is_warned_of() -> None:
    asks = type("Asks", (Copy,), {"step": lambda self, text: Turn(text=" And your age?")})
    with pytest.warns(UserWarning, match="Turn.done is True by default"):
        check_task(asks)


def test_what_makes_no_task_is_refused() -> None:
    with pytest.raises(TypeError, match="check_task takes a task's class"):
        check_task(Copy())  # type: ignore[arg-type]
