"""The ids are there, and bad arguments are refused before a model is loaded."""

from __future__ import annotations

import functools
import inspect
import json
import pickle
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import cola_envs
from cola_envs import EachRow, build
from cola_envs.tasks.thinking import ThinkingPrompt
from cola_envs.testing import FakeBackbone
from tests.envs.tiny import Copy

BUDGETS = {
    "Arithmetic": 48,
    "Thinking": 48,
    "Math500": 512,
    "GSM8K": 512,
    "Countdown": 64,
    "TextRooms": 64,
    "ALFWorld": 512,
    "Household": 512,
    "ScienceWorld": 1024,
    "Preference": 64,
    "Text": 64,
}


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(build, "resolve", load)


def test_every_id_has_both_levels_and_both_entry_points() -> None:
    for name, budget in BUDGETS.items():
        for middle, level in (("", "latent"), ("-Token", "token")):
            spec = gym.spec(f"CoLA-{name}{middle}-v0")
            assert spec.entry_point == "cola_envs.env:CoLAEnv"
            assert spec.vector_entry_point == "cola_envs.vector:CoLAVectorEnv"
            assert spec.max_episode_steps is None
            assert (spec.kwargs["default_max_tokens"], spec.kwargs["actions"]) == (budget, level)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of a substitute for MATH, where MATH is not there
@pytest.mark.parametrize("name", ["Arithmetic", "Thinking", "Countdown", "TextRooms", "Math500"])
def test_tasks_that_come_with_the_package_are_made_at_both_levels(name: str) -> None:
    for middle, level in (("", "latent"), ("-Token", "token")):
        model = FakeBackbone(level, max_length=2048)  # type: ignore[arg-type]
        for split in ("train", "test"):
            env = gym.make(f"CoLA-{name}{middle}-v0", model=model, split=split)
            assert env.reset(seed=0)[1]["prompt"]
            assert env.unwrapped.episodes.max_tokens == BUDGETS[name]  # type: ignore[attr-defined]


def specifications(name: str) -> list[Any]:
    """The objects whose docstrings specify an environment: what makes its task, and the class of that."""
    builder: Any = build.load(gym.spec(f"CoLA-{name}-v0").kwargs["builder"])
    made = ThinkingPrompt if name in ("Thinking", "Countdown") else builder
    return [made] if made is builder else [made, builder]


@pytest.mark.parametrize("name", BUDGETS)
def test_every_specification_has_the_same_headings_in_the_same_order(name: str) -> None:
    text = inspect.getdoc(specifications(name)[0]) or ""
    headings = re.findall(r"^\*\*([^*]+)\.\*\*", text, flags=re.MULTILINE)
    required = "Prompt", "Actions", "Observation", "Reward", "Episode end", "Info", "Data and licence"
    assert tuple(heading for heading in headings if heading in required) == required
    assert headings[-1] == "Versions"


@pytest.mark.parametrize("name", BUDGETS)
def test_every_specification_names_each_argument(name: str) -> None:
    text = "\n".join((inspect.getdoc(part) or "").partition("\nArgs:\n")[2] for part in specifications(name))
    documented = ", ".join(re.findall(r"^    ([a-z_, ]+): ", text, flags=re.MULTILINE)).split(", ")
    assert set(inspect.signature(specifications(name)[-1]).parameters) - {"num_rows"} <= set(documented)


def test_max_tokens_none_means_the_ids_own() -> None:
    env = gym.make("CoLA-Text-v0", task=Copy, model=FakeBackbone(), max_tokens=None)
    assert env.unwrapped.episodes.max_tokens == 64  # type: ignore[attr-defined]


def test_a_task_that_is_registered_again_has_what_is_said_last() -> None:
    for max_tokens, kwargs in ((64, {}), (128, {"difficulty": 3}), (32, {})):
        cola_envs.register_task("Again", "cola_envs.tasks.textrooms:TextRooms", max_tokens, **kwargs)
        for middle in ("", "-Token"):
            held = gym.spec(f"CoLA-Again{middle}-v0").kwargs
            assert held["default_max_tokens"] == max_tokens
            assert held.get("difficulty") == kwargs.get("difficulty")


def test_a_name_that_another_task_has_is_refused() -> None:
    with pytest.raises(ValueError, match="CoLA-Thinking-v0 is registered already"):
        cola_envs.register_task("Thinking", "cola_envs.tasks.textrooms:TextRooms", 48)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("Half", "x:Z", 5), ValueError, "CoLA-Half-Token-v0 is registered already"),
        (("Zed", "x:Y", "five"), TypeError, "max_tokens must be an integer, got 'five'"),
        (("Zed", "x:Y", 0), ValueError, "max_tokens must be at least 1, got 0"),
        (("Zed", "x:Y", 5, "nope"), ValueError, "on_task_error must be 'raise' or 'truncate', got 'nope'"),
        (("a b", "x:Y", 5), gym.error.Error, "Malformed environment ID"),
    ],
)
def test_nothing_is_registered_after_an_error(arguments: tuple, error: type, message: str) -> None:
    name, builder, max_tokens, *rest = arguments
    cola_envs.register_task("Half-Token", "x:Y", 5)
    try:
        before = set(gym.registry)
        with pytest.raises(error, match=message):
            cola_envs.register_task(name, builder, max_tokens, **({"on_task_error": rest[0]} if rest else {}))
        assert set(gym.registry) == before
    finally:
        for middle in ("", "-Token"):
            gym.registry.pop(f"CoLA-Half-Token{middle}-v0")


@pytest.mark.parametrize("builder", ["json", "nomod", ":Task", "module:", "a:b:c", ""])
def test_a_builder_that_is_no_module_and_name_is_refused(builder: str) -> None:
    with pytest.raises(ValueError, match=r"builder must be 'module:name' .* got"):
        cola_envs.register_task("Nowhere", builder, 8)
    assert "CoLA-Nowhere-v0" not in gym.registry


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (
            "no_such_module:Task",
            "builder='no_such_module:Task': No module named 'no_such_module'; it must be",
        ),
        ("json:Task", "builder='json:Task': module 'json' has no attribute 'Task'"),
    ],
)
def test_a_builder_that_does_not_exist_is_named(builder: str, message: str) -> None:
    cola_envs.register_task("Nowhere", builder, 8)
    try:
        with pytest.raises(ImportError, match=message):
            gym.make("CoLA-Nowhere-v0", model=FakeBackbone())
    finally:
        for middle in ("", "-Token"):
            gym.registry.pop(f"CoLA-Nowhere{middle}-v0")


def test_a_wrong_id_suggests_the_right_one() -> None:
    with pytest.raises(gym.error.NameNotFound, match="CoLA-Arithmetic"):
        gym.make("CoLA-Arithmetics-v0")
    with pytest.raises(gym.error.VersionNotFound):
        gym.make("CoLA-Arithmetic-v7")


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"max_token": 3}, TypeError, "unknown keyword argument 'max_token'. Did you mean 'max_tokens'"),
        ({"levle": 3}, TypeError, "Did you mean 'level'"),
        ({"xyzzy": 3}, TypeError, "unknown keyword argument 'xyzzy'. This task takes: .*level"),
        ({"max_tokens": 0}, ValueError, "max_tokens must be at least 1, got 0"),
        ({"max_tokens": "many"}, TypeError, "max_tokens must be an integer, got 'many'"),
        ({"budget_end": "cut"}, ValueError, "budget_end must be 'terminate' or 'truncate', got 'cut'"),
        ({"observation": "pixels"}, ValueError, "'hidden' or 'features' or 'tokens', got 'pixels'"),
        ({"split": "dev"}, ValueError, "split must be 'train' or 'test', got 'dev'"),
        (
            {"world_temperature": -0.1},
            ValueError,
            "world_temperature must be a finite number, 0 or above, got -0.1",
        ),
        ({"level": 9}, ValueError, "level"),
    ],
)
def test_bad_arguments_are_refused_before_a_model_is_loaded(kwargs: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        gym.make("CoLA-Arithmetic-v0", **kwargs)
    with pytest.raises(error, match=message):
        gym.make_vec("CoLA-Arithmetic-v0", num_envs=2, **kwargs)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({}, TypeError, "needs task="),
        ({"task": Copy()}, TypeError, "must be a factory"),
        ({"task": dict}, TypeError, r"has no reset\(rng\) and step\(text\)"),
        ({"task": Copy, "split": "test"}, ValueError, "no splits"),
        ({"tasks": Copy}, TypeError, "Did you mean 'task'"),
    ],
)
def test_a_task_of_ones_own_must_be_a_factory(kwargs: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        gym.make("CoLA-Text-v0", **kwargs)


def test_the_factory_is_called_once_a_row() -> None:
    made = []

    def factory() -> Copy:
        made.append(Copy())
        return made[-1]

    gym.make_vec("CoLA-Text-v0", num_envs=5, task=factory, model=FakeBackbone())
    assert len(made) == 5


def test_a_factory_with_num_rows_makes_the_whole_batch() -> None:
    def batch(num_rows: int) -> cola_envs.TaskBatch:
        return cola_envs.EachRow(Copy, num_rows)

    env = gym.make_vec("CoLA-Text-v0", num_envs=3, task=batch, model=FakeBackbone())
    env.reset(seed=0)
    assert isinstance(env.unwrapped.episodes.tasks, cola_envs.EachRow)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "returned None, which has no method reset, step, info, snapshot, restore, close"),
        (type("Half", (EachRow,), {"info": None})(Copy, 2), "which has no method info"),
        (type("Wide", (EachRow,), {"__init__": lambda self: None})(), r"task.stop must be .* got None"),
    ],
)
@pytest.mark.parametrize("env_id", ["CoLA-Text-v0", "CoLA-Batch-v0"])
def test_a_factory_of_a_batch_that_returns_something_else_is_told_what_is_missing(
    env_id: str, made: object, message: str
) -> None:
    def factory(num_rows: int) -> object:
        return made

    cola_envs.register_task("Batch", factory, 8)  # type: ignore[arg-type]
    try:
        with pytest.raises(TypeError, match=message):
            gym.make_vec(
                env_id, num_envs=2, model=FakeBackbone(), **({"task": factory} if "Text" in env_id else {})
            )
    finally:
        for middle in ("", "-Token"):
            gym.registry.pop(f"CoLA-Batch{middle}-v0")


def test_a_backbone_of_the_wrong_level_is_refused_and_the_tasks_are_closed() -> None:
    closed = []
    task = type("Engine", (Copy,), {"close": lambda self: closed.append(self)})
    with pytest.raises(ValueError, match=r"acts at latent level.*use the -Token-v0 id"):
        gym.make("CoLA-Text-v0", task=task, model=FakeBackbone("token"))
    assert len(closed) == 1


def test_a_backbone_keeps_its_tokenizer() -> None:
    model = FakeBackbone()
    gym.make("CoLA-Text-v0", task=Copy, model=model, tokenizer=model.tokenizer)
    with pytest.raises(ValueError, match="tokenizer"):
        gym.make("CoLA-Text-v0", task=Copy, model=model, tokenizer=FakeBackbone().tokenizer)


def test_the_task_and_the_engine_are_the_same_at_both_levels() -> None:
    latent = gym.make("CoLA-Arithmetic-v0", model=FakeBackbone())
    token = gym.make("CoLA-Arithmetic-Token-v0", model=FakeBackbone("token"))
    assert latent.reset(seed=4)[1] == token.reset(seed=4)[1]
    observation = token.reset(seed=4)[0]
    np.testing.assert_array_equal(latent.reset(seed=4)[0], observation)


def test_sb3s_two_ways_of_making_an_environment_from_an_id_work() -> None:
    """Both ask for render_mode="rgb_array" first, and go without after a TypeError alone."""
    from stable_baselines3.common.env_util import make_vec_env

    made = make_vec_env("CoLA-Arithmetic-v0", n_envs=1, env_kwargs={"model": FakeBackbone()})
    assert made.reset().shape[0] == 1


def test_num_envs_in_make_points_to_make_vec() -> None:
    with pytest.raises(TypeError, match="make_vec"):
        gym.make("CoLA-Arithmetic-v0", model=FakeBackbone(), num_envs=3)


def test_autoreset_mode_says_where_each_kind_of_vector_environment_takes_it() -> None:
    with pytest.raises(
        TypeError, match=r"vectorization_mode='sync' or 'async', vector_kwargs=.*SAME_STEP"
    ) as raised:
        gym.make_vec(
            "CoLA-Arithmetic-v0", model=FakeBackbone(), vectorization_mode="sync", autoreset_mode="same_step"
        )
    assert "gym.make_vec(id, num_envs=..., autoreset_mode=...)" in str(raised.value)
    with pytest.raises(TypeError, match=r"Did you mean 'num_envs' of gym.make_vec\(id, num_envs=...\)\?"):
        gym.make("CoLA-Arithmetic-v0", model=FakeBackbone(), num_rows=1)


@pytest.mark.parametrize(
    "mistake",
    [{"sequentail": True}, {"levels": 3}, {"shots": [3]}, {"sequential": "no"}, {"render_mode": "video"}],
)
def test_a_mistake_in_one_argument_does_not_print_the_others(mistake: dict) -> None:
    problems = [{"problem": "x" * 200, "answer": "1"}] * 100
    with pytest.raises(TypeError) as raised:
        gym.make("CoLA-Math500-v0", model=FakeBackbone(), problems=problems, split="test", **mistake)
    assert len(str(raised.value)) < 400
    assert "xxx" not in str(raised.value)


@pytest.mark.usefixtures("no_model")
def test_a_type_error_of_a_task_does_not_print_the_other_arguments() -> None:
    with pytest.raises(TypeError, match=r"^CoLA-Preference needs scorer=[^x]*$"):
        gym.make("CoLA-Preference-v0", prompts=["xxx"] * 100)


def test_spec_of_an_environment_on_the_bundled_model_is_json() -> None:
    assert "CoLA-Arithmetic-v0" in gym.make("CoLA-Arithmetic-v0").spec.to_json()


@pytest.mark.parametrize("name", ["stop", "info"])
def test_what_a_task_sets_itself_is_no_keyword(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        gym.make("CoLA-Arithmetic-v0", model=FakeBackbone(), **{name: ("=",)})


def test_a_task_with_splits_of_its_own_is_trained_on_the_first_and_refuses_others() -> None:
    class Seasons(Copy):
        splits = ("train", "valid_seen", "valid_unseen")

        def __init__(self, split: str = "train") -> None:
            super().__init__()
            self.split = split

    assert build.splits_of(Seasons) == Seasons.splits
    assert build.evaluation_split(Seasons) == "valid_unseen"
    assert build.evaluation_split("cola_envs.tasks.arithmetic:ArithmeticTask") == "test"
    assert build.build_episodes(
        1, builder=Seasons, actions="token", model=FakeBackbone("token"), split="valid_seen"
    )
    with pytest.raises(
        ValueError, match="split must be 'train' or 'valid_seen' or 'valid_unseen', got 'test'"
    ):
        build.build_episodes(1, builder=Seasons, actions="token", model=FakeBackbone("token"), split="test")


def test_the_json_of_a_spec_names_the_model_as_it_was_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    load = functools.partial(FakeBackbone, "latent")
    monkeypatch.setattr("cola_agents.decoding.loading.make_backbone", lambda *given, **settings: load())
    env = gym.make("CoLA-Arithmetic-v0", model=Path("some/model"), tokenizer="some/tokenizer", level=2)
    for made in (env, pickle.loads(pickle.dumps(env.unwrapped))):
        kwargs = json.loads(made.spec.to_json())["kwargs"]
        assert (kwargs["model"], kwargs["tokenizer"], kwargs["level"]) == ("some/model", "some/tokenizer", 2)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.episodes.backbone is not env.unwrapped.episodes.backbone
    assert env.spec.kwargs["model"] is env.unwrapped.episodes.backbone
    for other in (
        gym.make(env.spec, model=FakeBackbone()),
        gym.make("CoLA-Arithmetic-v0", model=FakeBackbone()),
    ):
        with pytest.raises(
            TypeError, match="model was passed as a FakeBackbone, which JSON does not hold: pass"
        ):
            other.spec.to_json()


def test_the_number_of_rows_is_no_keyword_of_an_environment() -> None:
    for make in (gym.make, functools.partial(gym.make_vec, num_envs=2)):
        with pytest.raises(TypeError, match="unknown keyword argument 'num_rows'"):
            make("CoLA-Arithmetic-v0", num_rows=3)


def test_a_failing_task_is_heard_where_it_is_the_users_and_cuts_its_row_elsewhere() -> None:
    for name in BUDGETS:
        for middle in ("", "-Token"):
            told = gym.spec(f"CoLA-{name}{middle}-v0").kwargs["on_task_error"]
            assert told == ("raise" if name in ("Text", "Preference") else "truncate")
    with pytest.raises(ValueError, match="on_task_error must be 'raise' or 'truncate', got 'skip'"):
        gym.make("CoLA-Text-v0", task=Copy, model=FakeBackbone(), on_task_error="skip")
