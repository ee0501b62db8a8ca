"""The Stable-Baselines3 bridge: episodes arrive whole, ClonedPolicy starts at the clone, PPO learns."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics, TransformAction
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from cola_agents.sb3 import ClonedPolicy, HeadBox, SB3VecEnv, sb3_defaults
from cola_envs import Turn
from cola_envs.testing import FakeBackbone
from cola_envs.vector import CoLAVectorEnv
from tests.envs.tiny import COUNTS_SAME_STEPS

EXAMPLES = Path(__file__).parents[1] / "examples"
LATENT, TOKEN = "CoLA-Text-v0", "CoLA-Text-Token-v0"


class FirstLetter:
    """Paid where the text starts with one of ``letters``."""

    stop = (".",)

    def __init__(self, letters: str = "aeiou") -> None:
        self.letters = letters

    def reset(self, rng: np.random.Generator) -> str:
        return "Say:"

    def step(self, text: str) -> Turn:
        return Turn(reward=float(text[:1] in self.letters and text != ""), info={"length": len(text)})


class Numbered(FirstLetter):
    """A different prompt every time."""

    def reset(self, rng: np.random.Generator) -> str:
        return f"Say {rng.integers(1000)}:"


def fake(num_envs: int | None = 4, level: str = "latent", **settings: Any) -> SB3VecEnv:
    settings = {"task": Numbered, "max_tokens": 4, "model": FakeBackbone(level), **settings}  # type: ignore[arg-type]
    return seeded(SB3VecEnv(TOKEN if level == "token" else LATENT, num_envs=num_envs, env_kwargs=settings))


def real(backbone: Any, num_envs: int = 4, **settings: Any) -> SB3VecEnv:
    settings = {"task": Numbered, "max_tokens": 4, "model": backbone, **settings}
    return seeded(
        SB3VecEnv(TOKEN if backbone.level == "token" else LATENT, num_envs=num_envs, env_kwargs=settings)
    )


def seeded(venv: SB3VecEnv) -> SB3VecEnv:
    venv.seed(0)
    return venv


def probabilities(policy: Any, observations: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return policy.get_distribution(torch.as_tensor(observations)).distribution.probs.numpy()


# ---------------------------------------------------------------- the vector environment


def test_rows_are_those_of_the_gymnasium_environment() -> None:
    venv = fake(3)
    twin = gym.make_vec(
        LATENT, num_envs=3, task=Numbered, max_tokens=4, model=FakeBackbone(), autoreset_mode="same_step"
    )
    venv.seed(5)
    observations: Any = venv.reset()
    expected, infos = twin.reset(seed=5)
    np.testing.assert_array_equal(observations, expected)
    assert [info["prompt"] for info in venv.reset_infos] == infos["prompt"].tolist()
    ends = 0
    for step in range(40):
        actions = np.array([step % 8, (3 * step) % 8, 1])
        observations, rewards, dones, rows = venv.step(actions)
        expected, expected_rewards, terminated, truncated, infos = twin.step(actions)
        np.testing.assert_array_equal(observations, expected)
        np.testing.assert_array_equal(rewards, expected_rewards)
        np.testing.assert_array_equal(dones, terminated | truncated)
        assert rewards.dtype == np.float32
        for row in range(3):
            source = infos["final_info"] if dones[row] else infos
            assert rows[row]["token"] == source["token"][row]
            assert rows[row]["action"] == actions[row]
            assert ("text" in rows[row]) == dones[row]
        ends += dones.sum()
    assert ends > 10


class Renamed(CoLAVectorEnv):
    """An environment of one's own around ours: its step is what is called."""

    def step(self, actions: Any) -> Any:
        *arrays, infos = super().step(actions)
        return (*arrays, {**infos, "mine": np.arange(self.num_envs)})


@pytest.mark.parametrize("task", ["Arithmetic", "TextRooms", "Countdown"])
def test_infos_are_the_same_whether_a_wrapper_stands_between_or_not(task: str) -> None:
    settings: Any = {"model": FakeBackbone(), "autoreset_mode": "same_step", "max_tokens": 5}
    inner = gym.make_vec(f"CoLA-{task}-v0", num_envs=4, **settings)
    outer = gym.make_vec(f"CoLA-{task}-v0", num_envs=4, **settings)
    venvs = SB3VecEnv(inner), SB3VecEnv(gym.wrappers.vector.TransformReward(outer, lambda reward: reward))
    for venv in venvs:
        venv.seed(3)
    np.testing.assert_array_equal(*[venv.reset() for venv in venvs])  # type: ignore[arg-type]
    ends = 0
    for step in range(24):
        one, other = (venv.step(np.array([step % 8, 2, 5, 1])) for venv in venvs)
        for mine, theirs in zip(one[:3], other[:3], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        for mine, theirs in zip(
            [*one[3], *venvs[0].reset_infos], [*other[3], *venvs[1].reset_infos], strict=True
        ):
            assert mine.keys() == theirs.keys()
            for key, value in mine.items():
                if key == "terminal_observation":
                    np.testing.assert_array_equal(value, theirs[key])
                elif key == "episode":
                    assert (value["r"], value["l"]) == (theirs[key]["r"], theirs[key]["l"])
                else:
                    assert (type(value), value) == (type(theirs[key]), theirs[key]), key
        ends += int(one[2].sum())
    assert ends > 4


def test_a_subclass_with_a_step_of_its_own_is_stepped_by_it() -> None:
    venv = fake(3)
    venv.env.__class__ = Renamed
    venv.reset()
    _, _, _, infos = venv.step(np.zeros(3, dtype=int))
    assert [info["mine"] for info in infos] == [0, 1, 2]


def test_the_terminal_observation_is_the_episodes_last_and_not_the_next_ones_first() -> None:
    venv = fake(4)
    venv.reset()
    episodes = venv.env.unwrapped.episodes  # type: ignore[attr-defined]
    session, seen = episodes.session, []
    extend = session.extend

    def spy(rows: Any, tokens: Any) -> None:
        extend(rows, tokens)
        seen.append(session.hidden(range(4)))

    session.extend = spy
    checked = 0
    for step in range(30):
        seen.clear()
        stepped: Any = venv.step(np.full(4, step % 8))
        observations, _, dones, rows = stepped
        for row in np.flatnonzero(dones):
            last = rows[row]["terminal_observation"]
            np.testing.assert_array_equal(last, seen[0][row])
            assert not np.array_equal(last, observations[row])
            np.testing.assert_array_equal(observations[row], episodes.observe([int(row)])[0])
            checked += 1
    assert checked > 10


@pytest.mark.parametrize(("budget_end", "cut"), [("terminate", False), ("truncate", True)])
def test_truncation_is_flagged_where_the_episode_was_cut(budget_end: str, cut: bool) -> None:
    venv = fake(2, "token", budget_end=budget_end)
    venv.reset()
    spell = venv.env.unwrapped.episodes.backbone.tokenizer.encode  # type: ignore[attr-defined]
    for letter in "abc":
        _, _, dones, rows = venv.step(np.array(spell(letter) * 2))
        assert not dones.any()
        assert "TimeLimit.truncated" not in rows[0]
    _, rewards, dones, rows = venv.step(np.array(spell("d.")))
    assert dones.all()
    assert [row["TimeLimit.truncated"] for row in rows] == [cut, False]
    assert rewards.tolist() == [0.0 if cut else 1.0, 1.0]


def test_final_fields_and_statistics_are_plain_and_flat() -> None:
    venv = fake(2, "token")
    venv.reset()
    spell = venv.env.unwrapped.episodes.backbone.tokenizer.encode  # type: ignore[attr-defined]
    first_prompt = venv.reset_infos[0]["prompt"]
    venv.step(np.array(spell("ax")))
    _, _, dones, rows = venv.step(np.array(spell(".x")))
    assert dones.tolist() == [True, False]
    assert rows[1] == {"token": spell("x")[0], "action": spell("x")[0]}
    final = rows[0]
    assert (final["text"], final["success"], final["num_tokens"], final["length"]) == ("a.", True, 2, 2)
    assert final["is_success"] is True
    assert final["episode"]["r"] == 1.0
    assert final["episode"]["l"] == 2
    assert final["episode"]["t"] >= 0
    assert venv.reset_infos[0]["prompt"] != first_prompt
    assert "prompt" not in final
    assert not any(key.startswith(("_", "final_")) for row in rows for key in row)
    assert not any(isinstance(value, torch.Tensor) for row in rows for value in row.values())
    _, _, dones, rows = venv.step(np.array(spell("..")))
    assert [row["episode"]["l"] for row in rows] == [1, 3]


def test_a_seed_gives_the_same_trajectory_again() -> None:
    def play() -> list[Any]:
        venv = fake(3, world_temperature=1.0)
        assert list(venv.seed(7)) == [7, 8, 9]
        out: list[Any] = [venv.reset()]
        return out + [venv.step(np.full(3, step % 8))[0] for step in range(20)]

    for first, second in zip(play(), play(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_seed_holds_for_one_reset() -> None:
    venv = fake(2)
    venv.seed(7)
    first, second = venv.reset(), venv.reset()
    assert not np.array_equal(first, second)


def test_options_reach_the_reset_once() -> None:
    venv = fake(3)
    venv.set_options({"problem_seed": 4})
    venv.reset()
    assert len({info["prompt"] for info in venv.reset_infos}) == 1
    venv.reset()
    assert len({info["prompt"] for info in venv.reset_infos}) == 3
    with pytest.raises(ValueError, match="share their options"):
        venv.set_options([{"problem_seed": row} for row in range(3)])


def test_stepping_without_actions_is_refused() -> None:
    venv = fake(2)
    venv.reset()
    with pytest.raises(RuntimeError, match="step_async"):
        venv.step_wait()


def test_no_episode_follows_one_that_a_tasks_error_stopped() -> None:
    class Failing(Numbered):
        def step(self, text: str) -> Turn:
            raise RuntimeError("the grader is gone")

    venv = fake(2, task=Failing, max_tokens=1)
    venv.reset()
    with pytest.raises(RuntimeError, match="the grader is gone"):
        venv.step(np.zeros(2, dtype=int))
    with pytest.raises(ResetNeeded):
        venv.step(np.zeros(2, dtype=int))


def test_rewards_may_be_changed_by_the_learner() -> None:
    venv = SB3VecEnv(RecordEpisodeStatistics(fake(2).env))
    venv.reset()
    rewards = venv.step(np.zeros(2, dtype=int))[1]
    rewards += 100  # what SB3 does where it bootstraps
    while True:
        _, _, dones, rows = venv.step(np.zeros(2, dtype=int))
        if dones[0]:
            break
    assert rows[0]["episode"]["r"] <= 1.0


def test_wrapped_vector_environments_are_taken() -> None:
    wrapped = RecordEpisodeStatistics(fake(3).env)
    venv = SB3VecEnv(wrapped)
    assert venv.env_is_wrapped(RecordEpisodeStatistics) == [True] * 3
    assert venv.env_is_wrapped(TransformAction, indices=1) == [False]
    venv.reset()
    ends = []
    for step in range(30):
        ends += [row["episode"] for row in venv.step(np.full(3, step % 8))[3] if "episode" in row]
    assert len(ends) == wrapped.episode_count > 5
    if COUNTS_SAME_STEPS:
        assert [end["l"] for end in ends] == list(wrapped.length_queue)
        assert [end["r"] for end in ends] == list(wrapped.return_queue)


def test_other_gymnasium_vector_environments_are_taken_with_same_step_autoreset() -> None:
    env = gym.make_vec(
        "CartPole-v1",
        num_envs=2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )
    venv = SB3VecEnv(env)
    sb3.PPO("MlpPolicy", venv, **{**sb3_defaults("ppo", venv), "n_steps": 64, "batch_size": 64}).learn(128)
    venv.close()


@pytest.mark.parametrize("mode", ["next_step", "disabled"])
def test_other_autoreset_modes_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="same_step"):
        fake(2, autoreset_mode=mode)


def test_arguments_beside_a_vector_environment_are_refused() -> None:
    env = fake(2).env
    with pytest.raises(TypeError, match="num_envs, split"):
        SB3VecEnv(env, num_envs=2, split="test")
    with pytest.raises(TypeError, match="DummyVecEnv"):
        SB3VecEnv(gym.make(LATENT, task=Numbered, model=FakeBackbone()))  # type: ignore[arg-type]
    with pytest.raises(gym.error.NameNotFound):
        SB3VecEnv("CoLA-Nothing-v0")


def test_thirty_two_rows_are_the_default() -> None:
    assert fake(None).num_envs == 32


def test_attributes_and_methods_are_found_through_wrappers() -> None:
    venv = SB3VecEnv(RecordEpisodeStatistics(fake(3, "token", render_mode="ansi").env))
    masks = venv.env_method("action_masks", indices=[0, 2])
    assert len(masks) == 2
    assert masks[0].sum() == 257
    assert venv.has_attr("action_masks")
    assert venv.get_attr("render_mode") == ["ansi"] * 3
    assert venv.get_attr("episode_count", indices=0) == [0]
    with pytest.raises(AttributeError, match="nothing"):
        venv.get_attr("nothing")
    venv.set_attr("marked", 1)
    assert venv.get_attr("marked") == [1] * 3
    with pytest.raises(ValueError, match="all of them"):
        venv.set_attr("marked", 2, indices=0)
    venv.reset()
    texts = venv.render()
    assert [text[:4] for text in texts] == ["Say "] * 3
    assert venv.env_method("render", indices=1) == [texts[1]]


@pytest.mark.parametrize("num_envs", [2, 5])
def test_the_parts_of_a_tuple_that_a_method_returns_are_not_dealt_out_as_rows(num_envs: int) -> None:
    venv = SB3VecEnv("CoLA-Arithmetic-v0", num_envs=num_envs, model=FakeBackbone())
    for method, arguments, parts in (("reset", {}, 2), ("step", {"actions": [1] * num_envs}, 5)):
        results = venv.env_method(method, **arguments)
        assert [type(result) for result in results] == [tuple] * num_envs
        assert [len(result) for result in results] == [parts] * num_envs
    assert len(venv.env_method("snapshot")) == num_envs


def test_statistics_count_as_a_monitor() -> None:
    venv = fake(2)
    assert venv.env_is_wrapped(Monitor) == [True, True]
    agent = sb3.PPO("MlpPolicy", venv, **sb3_defaults("ppo", venv))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, _ = evaluate_policy(agent, venv, n_eval_episodes=4)
    assert isinstance(mean, float)
    assert 0 <= mean <= 1


def test_sb3s_own_wrappers_go_around_it() -> None:
    with pytest.warns(UserWarning, match="Monitor"):
        venv = VecNormalize(VecMonitor(fake(2)))
    sb3.PPO("MlpPolicy", venv, **{**sb3_defaults("ppo", venv), "n_steps": 64, "batch_size": 64}).learn(128)


@pytest.mark.parametrize("level", ["latent", "token"])
def test_single_environments_pass_sb3s_checker(level: str) -> None:
    env_id = TOKEN if level == "token" else LATENT
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id, task=Numbered, model=FakeBackbone(level)).unwrapped)  # type: ignore[arg-type]


# ---------------------------------------------------------------- the cloned policy


@pytest.mark.parametrize("settings", [{"observation": "features"}, {"observation": "hidden"}])
@pytest.mark.parametrize("level", ["latent", "token"])
def test_the_cloned_policy_starts_exactly_at_the_prior(
    level: str, settings: dict, request: pytest.FixtureRequest
) -> None:
    backbone = request.getfixturevalue(f"{level}_backbone")
    venv = real(backbone, **settings)
    if level == "latent" and settings["observation"] == "hidden":
        with pytest.raises(ValueError, match='"observation": "features"'):
            sb3.PPO(ClonedPolicy, venv, **sb3_defaults("ppo", venv))
        return
    agent = sb3.PPO(ClonedPolicy, venv, seed=0, **sb3_defaults("ppo", venv))
    observations: Any = venv.reset()
    session = venv.env.unwrapped.episodes.session  # type: ignore[attr-defined]
    for _ in range(6):
        prior = np.exp(session.prior(range(4)))
        assert prior.std(-1).min() > 1e-3
        np.testing.assert_allclose(probabilities(agent.policy, observations), prior, atol=1e-5)
        with torch.no_grad():
            assert not agent.policy.predict_values(torch.as_tensor(observations)).any()
        observations = venv.step(agent.predict(observations)[0])[0]


def test_a_head_with_a_bias_is_cloned_too(latent_backbone: Any) -> None:
    class Biased:
        def __init__(self) -> None:
            self.head = torch.nn.Linear(latent_backbone.hidden_size, 16)

        def __getattr__(self, name: str) -> Any:
            return getattr(latent_backbone, name)

        def initial_policy(self) -> Any:
            return None, self.head

        def __deepcopy__(self, memo: Any) -> Any:
            return self

    backbone = Biased()
    venv = real(backbone, observation="features")
    agent = sb3.PPO(ClonedPolicy, venv, **sb3_defaults("ppo", venv))
    observations = venv.reset()
    expected = backbone.head(torch.as_tensor(observations)).softmax(-1).detach().numpy()
    np.testing.assert_allclose(probabilities(agent.policy, observations), expected, atol=1e-5)


def test_observations_of_unknown_meaning_are_refused(latent_backbone: Any) -> None:
    def policy_on(venv: Any) -> None:
        sb3.PPO(ClonedPolicy, venv, n_steps=2, batch_size=2)

    changed = TransformAction(
        real(latent_backbone, observation="features").env, lambda a: a % 8, gym.spaces.MultiDiscrete([8] * 4)
    )
    changed.single_action_space = gym.spaces.Discrete(8)
    single = DummyVecEnv([lambda: gym.make(LATENT, task=Numbered, model=latent_backbone)])
    for venv in (fake(2), SB3VecEnv(changed), single):
        with pytest.raises(ValueError, match="initial_policy"):
            policy_on(venv)


def test_training_changes_head_and_residual_and_leaves_the_model_alone(latent_backbone: Any) -> None:
    venv = real(latent_backbone, num_envs=8, observation="features")
    weight = latent_backbone.model.policy_head.weight
    before = weight.detach().clone()
    agent = sb3.PPO(ClonedPolicy, venv, seed=0, **sb3_defaults("ppo", venv))
    start = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    agent.learn(agent.n_steps * 8)
    end = agent.policy.state_dict()
    size = latent_backbone.hidden_size
    assert not torch.equal(start["action_net.weight"][:, :size], end["action_net.weight"][:, :size])
    assert not start["action_net.weight"][:, size:].any()
    assert end["action_net.weight"][:, size:].any()
    assert any("policy_net" in name and not torch.equal(start[name], end[name]) for name in end)
    assert torch.equal(weight, before)


def test_ids_without_a_token_are_never_drawn(token_backbone: Any) -> None:
    venv = real(token_backbone, num_envs=8)
    mask = venv.env_method("action_masks", indices=0)[0]
    assert (~mask).any()
    agent = sb3.PPO(ClonedPolicy, venv, seed=0, **{**sb3_defaults("ppo", venv), "ent_coef": 1.0})
    agent.learn(agent.n_steps * 8)  # the environment refuses such an id
    drawn = probabilities(agent.policy, venv.reset())
    assert np.isfinite(drawn).all()
    assert not drawn[:, ~mask].any()


def test_once_loaded_it_predicts_without_environment_or_model(latent_backbone: Any, tmp_path: Path) -> None:
    venv = real(latent_backbone, observation="features")
    observations = venv.reset()
    agent = sb3.PPO(
        ClonedPolicy, venv, seed=0, **{**sb3_defaults("ppo", venv), "n_steps": 16, "batch_size": 64}
    )
    agent.learn(64)
    agent.save(tmp_path / "agent")
    expected = probabilities(agent.policy, observations)

    loaded = sb3.PPO.load(tmp_path / "agent", device="cpu")
    np.testing.assert_allclose(probabilities(loaded.policy, observations), expected, atol=1e-6)
    actions, _ = loaded.predict(observations, deterministic=True)
    np.testing.assert_array_equal(actions, expected.argmax(-1))

    resumed = sb3.PPO.load(
        tmp_path / "agent", env=real(latent_backbone, 3, observation="features"), device="cpu"
    )
    np.testing.assert_allclose(probabilities(resumed.policy, observations), expected, atol=1e-6)
    resumed.learn(48)

    agent.policy.save(str(tmp_path / "policy"))
    policy = ClonedPolicy.load(str(tmp_path / "policy"), device="cpu")
    np.testing.assert_allclose(probabilities(policy, observations), expected, atol=1e-6)


def test_a_pickled_space_leaves_the_model_behind(latent_backbone: Any) -> None:
    space = real(latent_backbone, observation="features").observation_space
    plain = gym.spaces.Box(-np.inf, np.inf, (latent_backbone.hidden_size,), np.float32)
    assert isinstance(space, HeadBox)
    assert len(pickle.dumps(space)) < len(pickle.dumps(plain)) + 200
    copied, unpickled = copy.deepcopy(space), pickle.loads(pickle.dumps(space))
    assert copied.head is space.head is latent_backbone.model.policy_head
    assert unpickled.head is None
    for other in (plain, copied, unpickled):
        assert space == other
        assert other == space
    assert space.contains(space.sample())


# ---------------------------------------------------------------- learning


def letters_of(backbone: Any, share: float) -> str:
    """First letters that about ``share`` of the actions lead to."""
    env = gym.make(LATENT, task=FirstLetter, model=backbone).unwrapped
    env.reset(seed=0)
    tokens = env.episodes.session.outcomes([0])[0][0, :, 0]  # type: ignore[attr-defined]
    texts = [backbone.tokenizer.decode([int(token)])[:1] for token in tokens]
    counts = {text: texts.count(text) for text in texts if text and text not in ".\ufffd"}
    rarest = min(counts, key=lambda text: (abs(counts[text] / len(texts) - share), text))
    return rarest


def curve(agent: Any, steps: int) -> tuple[float, float]:
    """Mean return of the first rollout's episodes and of the last hundred."""
    agent.learn(agent.n_steps * agent.n_envs, log_interval=None)
    first = np.mean([end["r"] for end in agent.ep_info_buffer])
    agent.learn(steps, reset_num_timesteps=False, log_interval=None)
    return float(first), float(np.mean([end["r"] for end in agent.ep_info_buffer]))


@pytest.mark.parametrize("policy", ["MlpPolicy", ClonedPolicy])
def test_ppo_learns_with_the_defaults(policy: Any, latent_backbone: Any) -> None:
    letters = letters_of(latent_backbone, 1 / 16)
    venv = real(latent_backbone, 32, task=lambda: FirstLetter(letters), max_tokens=2, observation="features")
    agent = sb3.PPO(policy, venv, seed=0, **sb3_defaults("ppo", venv))
    first, last = curve(agent, 7 * 2048)
    assert first < 0.5
    assert last > 0.9


def test_a2c_learns_with_the_defaults() -> None:
    backbone = FakeBackbone()
    venv = fake(32, task=lambda: FirstLetter(letters_of(backbone, 1 / 8)), max_tokens=2, model=backbone)
    agent = sb3.A2C("MlpPolicy", venv, seed=0, **sb3_defaults("a2c", venv))
    first, last = curve(agent, 20_000)
    assert first < 0.5
    assert last > 0.9


def test_episode_statistics_reach_sb3s_logger() -> None:
    venv = fake(4)
    agent = sb3.PPO("MlpPolicy", venv, **{**sb3_defaults("ppo", venv), "n_steps": 32, "batch_size": 64})
    logged: dict[str, Any] = {}
    agent.set_logger(sb3.common.logger.Logger(None, []))
    dump = agent.logger.dump
    agent.logger.dump = lambda step=0: (logged.update(agent.logger.name_to_value), dump(step))  # type: ignore[method-assign, assignment]
    agent.learn(128)
    assert 0 <= logged["rollout/ep_rew_mean"] <= 1
    assert 1 <= logged["rollout/ep_len_mean"] <= 4
    assert logged["rollout/success_rate"] == pytest.approx(logged["rollout/ep_rew_mean"])


@pytest.mark.parametrize("num_envs", [1, 3, 32, 37, 128])
def test_minibatches_divide_the_rollout(num_envs: int) -> None:
    settings = sb3_defaults("ppo", fake(num_envs))
    size = settings["n_steps"] * num_envs
    assert size >= 2048
    assert settings["n_steps"] >= 4
    assert size % settings["batch_size"] == 0
    assert 64 <= settings["batch_size"] <= 512
    assert settings["gamma"] == settings["gae_lambda"] == 1.0
    assert settings["device"] == "cpu"


def test_rollouts_of_long_texts_are_longer() -> None:
    assert sb3_defaults("ppo", fake(32, max_tokens=200))["n_steps"] == 256
    assert sb3_defaults("ppo", fake(32, max_tokens=48))["n_steps"] == 64


def test_unknown_algorithms_and_environments_are_refused() -> None:
    with pytest.raises(ValueError, match="'a2c' or 'ppo'"):
        sb3_defaults("dqn", fake(2))
    with pytest.raises(TypeError, match="SB3VecEnv"):
        sb3_defaults("ppo", gym.make_vec(LATENT, num_envs=2, task=Numbered, model=FakeBackbone()))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["sb3_ppo", "sb3_cloned_policy"])
def test_examples_run_on_a_tiny_model(name: str, latent_backbone: Any, capsys: Any) -> None:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(timesteps=64, num_envs=2, test_episodes=2, model=latent_backbone, max_tokens=4)
    assert "format reward on test problems" in capsys.readouterr().out


@pytest.mark.parametrize("seed", [-3, "a", 1.5, True])
def test_a_seed_that_no_reset_would_take_is_refused_at_once(seed: Any) -> None:
    venv = fake(2)
    with pytest.raises((TypeError, ValueError), match="seed must be"):
        venv.seed(seed)
    venv.reset()
    assert list(venv.seed(3)) == [3, 4]
