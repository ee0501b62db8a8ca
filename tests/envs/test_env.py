"""The single environment: Gymnasium's rules, options, rendering, the spec."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3.common.env_checker as sb3_checker
from gymnasium.error import InvalidAction, ResetNeeded, UnsupportedMode
from gymnasium.utils import env_checker

import cola_envs
from cola_envs import build
from cola_envs.testing import FakeBackbone
from tests.envs.tiny import Copy, Talk

TEXT = "CoLA-Text-v0"
TOKEN = "CoLA-Text-Token-v0"
TOKENS = {"observation": "tokens"}


def make(env_id: str = TEXT, **kwargs: Any) -> Any:
    kwargs.setdefault("task", Copy)
    kwargs.setdefault("model", FakeBackbone("token" if "Token" in env_id else "latent"))
    return gym.make(env_id, **kwargs)


def write(env: Any, text: str) -> Any:
    out = None
    for byte in text.encode():
        out = env.step(byte + 1)
    return out


@pytest.mark.parametrize("env_id", [TEXT, TOKEN])
@pytest.mark.parametrize(
    "settings", [{}, {"world_temperature": 1.0}, {"task": Talk}, {"prior_coef": 0.1}, TOKENS]
)
def test_gymnasium_and_sb3_checkers_pass(
    env_id: str, settings: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    import matplotlib  # noqa: F401  render modes import it, and old versions warn when they are imported

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*A Box observation space m..imum value is.*")
        env_checker.check_env(make(env_id, **settings).unwrapped)
        sb3_checker.check_env(make(env_id, **settings).unwrapped, skip_render_check=False)


@pytest.mark.parametrize("cls", [cola_envs.CoLAEnv, cola_envs.CoLAVectorEnv])
def test_the_help_of_reset_and_step_is_not_gymnasiums(cls: type) -> None:
    for name in ("reset", "step"):
        said = getattr(cls, name).__doc__ or ""
        assert "Raises:\n" in said
        assert "int32" in said or "float" in said


def test_observations_are_float32_and_unbounded() -> None:
    env = make(model=FakeBackbone(hidden_size=5))
    assert env.observation_space == gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space


def test_the_same_seed_gives_the_same_episodes_and_the_next_ones_follow() -> None:
    env, other = make(world_temperature=1.0), make(world_temperature=1.0)
    prompts = [[e.reset(seed=3 if i == 0 else None)[1]["prompt"] for i in range(30)] for e in (env, other)]
    assert prompts[0] == prompts[1]
    assert len(set(prompts[0])) > 3
    env.step(0)
    env.reset(seed=3)
    assert env.reset()[1]["prompt"] == prompts[0][1]


def test_without_a_seed_two_environments_differ() -> None:
    seeds = set()
    for _ in range(3):
        env = make()
        env.reset()
        seeds.add(env.unwrapped.episodes.seed(0))
    assert len(seeds) == 3


def test_problem_seed_draws_the_problem_alone() -> None:
    env = make()
    prompts = {seed: env.reset(seed=seed)[1]["prompt"] for seed in range(10)}
    for seed in range(10):
        assert env.reset(seed=seed, options={"problem_seed": 7})[1]["prompt"] == prompts[7]


def test_options_that_do_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no option 'problem_seeds'; it takes 'problem_seed'"):
        make().reset(options={"problem_seeds": 1})


def test_actions_of_the_wrong_kind_point_to_the_twin() -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(
        InvalidAction, match=r"action 71 is outside Discrete\(8\); .*Use CoLA-Text-Token-v0\."
    ):
        env.step(71)
    with pytest.raises(InvalidAction, match=r"'a' \(str\)"):
        env.step("a")
    twin = make(TOKEN)
    twin.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"action 999 is outside Discrete\(260\)$"):
        twin.step(999)


def test_steps_out_of_order_need_a_reset() -> None:
    for env in (make(TOKEN), make(TOKEN).unwrapped):
        with pytest.raises(ResetNeeded):
            env.step(1)
        env.reset(seed=0)
        write(env, ".")
        with pytest.raises(ResetNeeded, match="over"):
            env.step(1)


def test_action_masks_leave_out_ids_beyond_the_tokenizer() -> None:
    masks = make(TOKEN).unwrapped.action_masks()
    assert (masks.dtype, masks.shape, masks.sum()) == (np.dtype(bool), (260,), 257)
    assert make().unwrapped.action_masks().all()
    space = make(TOKEN).action_space
    assert max(int(space.sample()) for _ in range(2000)) == 256
    assert 256 in space
    assert 257 not in space
    masks[:] = False
    assert make(TOKEN).unwrapped.action_masks().any()


def test_snapshot_and_restore_replay() -> None:
    env = make(world_temperature=1.0, task=Talk).unwrapped
    env.reset(seed=1)
    env.step(0)
    state = env.snapshot()
    first = [env.step(a)[4] for a in (1, 2, 3)]
    env.reset(seed=9)
    env.restore(state)
    assert [env.step(a)[4] for a in (1, 2, 3)] == first
    assert env.restore(state, reseed=4).shape == (16,)


def test_spec_makes_the_environment_again_without_copying_the_model() -> None:
    class Heavy(FakeBackbone):
        def __reduce__(self):
            raise AssertionError("the weights were copied")

    model = Heavy()
    env = make(model=model, max_tokens=5, world_temperature=0.5)
    spec = copy.deepcopy(env.spec)
    assert spec.kwargs["model"] is model
    again: Any = gym.make(spec)
    assert again.unwrapped.episodes.backbone is model
    assert again.unwrapped.episodes.max_tokens == 5
    assert again.unwrapped.episodes.world_temperature == 0.5


def test_a_model_is_loaded_once_for_all_environments_of_a_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def resolve(model: Any, **kwargs: Any) -> Any:
        if isinstance(model, str):
            loaded.append((model, kwargs["tokenizer"]))
            return FakeBackbone()
        assert kwargs["tokenizer"] is None
        return model

    monkeypatch.setattr(build, "resolve", resolve)
    env = make(model="some/model", tokenizer="some/tokenizer")
    again: Any = env.spec.make()
    third: Any = gym.make_vec(env.spec, num_envs=2)
    assert loaded == [("some/model", "some/tokenizer")]
    for other in (again, third):
        assert other.unwrapped.episodes.backbone is env.unwrapped.episodes.backbone


def test_iterators_survive_in_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    class Listed(Copy):
        def __init__(self, problems=()) -> None:
            super().__init__()
            self.problems = list(problems)

    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    cola_envs.register_task("Listed", "tests.envs.test_env:listed", 8)
    globals()["listed"] = Listed
    env: Any = gym.make("CoLA-Listed-v0", model=FakeBackbone(), problems=iter("abc"))
    again = env.spec.make()
    for made in (env, again):
        assert made.unwrapped.episodes.tasks.tasks[0].problems == ["a", "b", "c"]


def test_ansi_shows_the_action_behind_every_token() -> None:
    env = make(TOKEN, render_mode="ansi", task=Talk)
    env.reset(seed=0)
    assert env.render() == "Talk!\n"
    write(env, "hé\n")
    reply = env.unwrapped.episodes.backbone.tokenizer.decode(env.unwrapped.episodes.tokens(0)).rpartition(
        "\n"
    )[2]
    shown = "Talk!\nh⟨105⟩é⟨196 170⟩\n⟨11⟩"
    assert env.render() == shown + reply
    env.step(0)
    assert env.render().startswith(shown + reply + "∅⟨0⟩[")


def test_ansi_shows_one_action_behind_all_of_its_tokens() -> None:
    env = make(model=FakeBackbone(tokens_per_action=3), render_mode="ansi")
    env.reset(seed=0)
    info = env.step(5)[4]
    text = env.unwrapped.episodes.backbone.tokenizer.decode(info["tokens"])
    assert env.render().endswith(f":{text}⟨5⟩")


def test_human_prints_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    env = make(TOKEN, render_mode="human", task=lambda: Talk(turns=1))
    env.reset(seed=0)
    assert capsys.readouterr().out == "Talk!\n"
    write(env, "a")
    assert capsys.readouterr().out == "a⟨98⟩"
    write(env, "\n")
    assert capsys.readouterr().out == "\n⟨11⟩\n"
    assert env.render() is None
    assert capsys.readouterr().out == "Talk!\na⟨98⟩\n⟨11⟩\n"


def test_human_prints_a_character_of_several_tokens_once_and_when_it_is_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    env = make(TOKEN, render_mode="human", task=lambda: Talk(turns=1))
    env.reset(seed=0)
    first, second = "é".encode()
    env.step(first + 1)
    state = env.unwrapped.snapshot()
    assert capsys.readouterr().out == "Talk!\n"
    env.step(second + 1)
    assert capsys.readouterr().out == f"é⟨{first + 1} {second + 1}⟩"
    env.unwrapped.restore(state)
    env.step(second + 1)
    write(env, "日a")
    codes = " ".join(str(byte + 1) for byte in "日".encode())
    assert capsys.readouterr().out == f"\né⟨{first + 1} {second + 1}⟩日⟨{codes}⟩a⟨98⟩"
    env.step(first + 1)  # the episode ends within the character: what there is of it is shown
    env.step(11)
    assert capsys.readouterr().out == f"\ufffd\n⟨{first + 1} 11⟩\n"


def test_human_prints_after_a_restore_only_what_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    env = make(TOKEN, render_mode="human", task=lambda: Talk(turns=1))
    env.reset(seed=0)
    write(env, "a")
    state = env.unwrapped.snapshot()
    write(env, "b")
    capsys.readouterr()
    env.unwrapped.restore(state)
    write(env, "c\n")
    assert capsys.readouterr().out == "\nc⟨100⟩\n⟨11⟩\n"
    env.unwrapped.restore(state)  # the line of the ended episode is closed
    write(env, "d")
    assert capsys.readouterr().out == "d⟨101⟩"


@pytest.mark.parametrize("options", [["problem_seed"], "problem_seed", 5])
def test_options_that_are_no_dict_are_named(options: Any) -> None:
    with pytest.raises(TypeError, match=r"options must be a dict such as {'problem_seed': ...}, got "):
        make().reset(options=options)


def test_a_seed_of_numpy_is_pythons() -> None:
    first, second = make(), make()
    np.testing.assert_array_equal(first.reset(seed=np.int64(3))[0], second.reset(seed=3)[0])
    assert first.unwrapped.np_random_seed == 3


def test_unknown_render_modes_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UnsupportedMode, match="depth_array"):
            make(render_mode="depth_array")


def test_closing_twice_is_allowed() -> None:
    env = make()
    env.reset()
    env.close()
    env.close()
    with pytest.raises(ResetNeeded):
        env.unwrapped.step(0)


def test_token_observations_are_the_ids_so_far_and_nothing_behind_them() -> None:
    env = make(TOKEN, observation="tokens")
    observation, info = env.reset(seed=3)
    prompt = env.unwrapped.episodes.backbone.tokenizer.encode(info["prompt"])
    assert observation.dtype == np.int32
    assert observation in env.observation_space
    assert observation[observation >= 0].tolist() == prompt
    observation, *_ = write(env, "a")
    assert observation[: len(prompt) + 2].tolist() == [*prompt, ord("a") + 1, -1]
    assert (observation[len(prompt) + 1 :] == -1).all()


def test_a_builder_that_takes_anything_is_not_given_a_split() -> None:
    def make(**settings: Any) -> Copy:
        assert not settings
        return Copy()

    env = gym.make("CoLA-Text-v0", task=make, model=FakeBackbone())
    env.reset(seed=0)
    with pytest.raises(ValueError, match="this task has no splits"):
        gym.make("CoLA-Text-v0", task=make, model=FakeBackbone(), split="test")
