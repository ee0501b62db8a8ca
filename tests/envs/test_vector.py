"""The vector environment: rows are the single environment's, Gymnasium's vector rules hold."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from cola_envs import Turn
from cola_envs.infos import StepInfos, batch_infos
from cola_envs.testing import FakeBackbone
from tests.envs.tiny import COUNTS_SAME_STEPS, Copy, Talk

TEXT = "CoLA-Text-v0"
A = 98  # the token "a"
STOP = 47  # the token "."


def make(num_envs: int = 3, env_id: str = TEXT, **kwargs: Any) -> Any:
    kwargs.setdefault("autoreset_mode", "same_step")
    kwargs.setdefault("task", Copy)
    kwargs.setdefault("model", FakeBackbone("token" if "Token" in env_id else "latent"))
    return gym.make_vec(env_id, num_envs=num_envs, **kwargs)


def tokens(**kwargs: Any) -> Any:
    return make(env_id="CoLA-Text-Token-v0", **kwargs)


def assert_same(first, second) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        other = second[key]
        if isinstance(value, dict):
            assert_same(value, other)
        elif value.dtype == object:
            for a, b in zip(value, other, strict=True):
                np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_array_equal(value, other)
            assert value.dtype == other.dtype


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
@pytest.mark.parametrize(
    "settings", [{}, {"world_temperature": 1.0}, {"max_tokens": 7, "budget_end": "truncate"}]
)
def test_it_equals_gymnasiums_vector_of_single_environments(mode: str, settings: dict) -> None:
    for task in (Copy, Talk):
        kwargs = {"task": task, "model": FakeBackbone(), **settings}
        ours = make(4, autoreset_mode=mode, **kwargs)
        theirs = SyncVectorEnv(
            [partial(gym.make, TEXT, **kwargs) for _ in range(4)],
            autoreset_mode=ours.metadata["autoreset_mode"],
        )
        assert ours.observation_space == theirs.observation_space
        assert ours.action_space == theirs.action_space
        rng = np.random.default_rng(0)
        for mine, reference in [(env.reset(seed=5) for env in (ours, theirs))]:
            np.testing.assert_array_equal(mine[0], reference[0])
            assert_same(mine[1], reference[1])
        ended = 0
        for _ in range(150):
            actions = rng.integers(0, 8, 4)
            mine, reference = ours.step(actions), theirs.step(actions)
            for got, expected in zip(mine[:4], reference[:4], strict=True):
                np.testing.assert_array_equal(got, expected)
                assert got.dtype == expected.dtype
            assert_same(mine[4], reference[4])
            ended += int((mine[2] | mine[3]).sum())
        assert ended > 4


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("limit", [1, 4, -1])
def test_a_limit_of_steps_is_that_of_single_environments(mode: AutoresetMode, limit: int) -> None:
    for task in (Copy, Talk):
        kwargs = {"task": task, "model": FakeBackbone(), "max_tokens": 9, "max_episode_steps": limit}
        ours = make(4, autoreset_mode=mode, **kwargs)
        theirs = SyncVectorEnv([partial(gym.make, TEXT, **kwargs) for _ in range(4)], autoreset_mode=mode)
        for env in (ours, theirs):
            env.reset(seed=5)
        rng, cut = np.random.default_rng(0), 0
        for _ in range(60):
            actions = rng.integers(0, 8, 4)
            mine, reference = ours.step(actions), theirs.step(actions)
            for got, expected in zip(mine[:4], reference[:4], strict=True):
                np.testing.assert_array_equal(got, expected)
                assert got.dtype == expected.dtype
            assert_same(mine[4], reference[4])
            cut += int(mine[3].sum())
            over = mine[2] | mine[3]
            if mode is AutoresetMode.DISABLED and over.any():
                with pytest.raises(ResetNeeded):
                    ours.step(actions)
                for env in (ours, theirs):
                    env.reset(options={"reset_mask": over})
        assert (cut > 0) is (limit > 0)


def test_steps_before_a_snapshot_count_after_it_is_restored() -> None:
    env = tokens(num_envs=2, max_episode_steps=3, max_tokens=9)
    env.reset(seed=0)
    env.step([A, A])
    env.step([A, A])
    states = env.snapshot()
    assert env.step([A, A])[3].tolist() == [True, True]
    env.restore(states)
    assert env.step([A, A])[3].tolist() == [True, True]


@pytest.mark.parametrize(
    ("limit", "error"), [(0, ValueError), (-2, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_a_limit_of_steps_is_a_number_of_steps(limit: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_episode_steps must be"):
        make(max_episode_steps=limit)


def test_a_row_does_not_depend_on_its_neighbours_over_episodes() -> None:
    streams = np.random.default_rng(0).integers(0, 8, (200, 6))

    def prompts(rows: list[int]) -> list[list[str]]:
        env = make(len(rows), world_temperature=1.0)
        _, infos = env.reset(seed=[10 * row for row in rows])
        seen = [[infos["prompt"][i]] for i in range(len(rows))]
        for step in streams:
            _, _, _, _, infos = env.step(step[rows])
            for i in range(len(rows)):
                seen[i].append(infos["prompt"][i] if infos.get("_prompt", [0] * 9)[i] else infos["token"][i])
        return seen

    together = prompts([0, 1, 2, 3, 4, 5])
    assert prompts([3]) == [together[3]]
    assert prompts([5, 1]) == [together[5], together[1]]


def test_final_observation_and_info_are_kept() -> None:
    env = tokens(num_envs=2)
    env.reset(seed=0)
    env.step([A, A])
    before = env.unwrapped.episodes.tokens(0)
    observations, _, terminated, truncated, infos = env.step([STOP, A])
    assert terminated.tolist() == [True, False]
    assert not truncated.any()
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [True, False]
    assert infos["final_info"]["text"].tolist() == ["a.", None]
    assert infos["final_info"]["num_tokens"].tolist() == [2, 0]
    assert infos["_token"].tolist() == [False, True]
    session = FakeBackbone("token").session(1)
    session.load([0], [[*before, STOP]])
    np.testing.assert_array_equal(infos["final_obs"][0], session.hidden([0])[0])
    session.load([0], [env.unwrapped.episodes.tokens(0)])
    np.testing.assert_array_equal(observations[0], session.hidden([0])[0])
    assert infos["prompt"].tolist() == [
        env.unwrapped.episodes.backbone.tokenizer.decode(env.unwrapped.episodes.tokens(0)),
        None,
    ]


def test_the_autoreset_mode_is_gymnasiums_own_where_none_is_given() -> None:
    ours: Any = gym.make_vec(TEXT, num_envs=2, task=Copy, model=FakeBackbone())
    theirs = gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_next_step_mode_resets_one_step_later() -> None:
    env = tokens(num_envs=2, autoreset_mode="next_step")
    env.reset(seed=0)
    _, _, terminated, _, infos = env.step([STOP, A])
    assert terminated.tolist() == [True, False]
    assert "final_obs" not in infos
    _, rewards, terminated, _, infos = env.step([A, A])
    assert (rewards[0], terminated[0], infos["_token"].tolist()) == (0.0, False, [False, True])
    assert len(env.unwrapped.episodes.actions(0)) == 0
    with pytest.raises(InvalidAction):
        env.step([A, 999])


def test_the_action_of_a_row_that_is_reset_may_be_anything() -> None:
    env = tokens(num_envs=2, autoreset_mode="next_step")
    for placeholder in (-1, 10**6):
        for actions in ([placeholder, A], np.array([placeholder, A])):
            env.reset(seed=0)
            env.step([STOP, A])
            assert env.step(actions)[4]["_token"].tolist() == [False, True]
    env.reset(seed=0)
    env.step([STOP, A])
    for few in ([A], A):
        with pytest.raises((InvalidAction, ValueError), match="2"):
            env.step(few)


class Breaks(Copy):
    """Its grader or its prompts fail where ``broken`` names them."""

    broken = ""

    def reset(self, rng: np.random.Generator) -> str:
        if self.broken == "reset":
            raise RuntimeError("no more problems")
        return super().reset(rng)

    def step(self, text: str) -> Turn:
        if self.broken == "step":
            raise RuntimeError("the grader is gone")
        return super().step(text)


@pytest.fixture
def breaks() -> type[Breaks]:
    return type("Breaks", (Breaks,), {})


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_no_episode_follows_one_that_a_tasks_error_stopped(mode: str, breaks: Any) -> None:
    env = tokens(num_envs=2, autoreset_mode=mode, task=breaks)
    env.reset(seed=0)
    env.step([A, A])
    breaks.broken = "step"
    with pytest.raises(RuntimeError, match="the grader is gone"):
        env.step([STOP, A])
    breaks.broken = ""
    for _ in range(2):
        with pytest.raises(ResetNeeded):
            env.step([A, A])
    env.reset()
    assert env.step([A, A])[4]["_token"].tolist() == [True, True]


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_no_row_goes_on_after_a_step_whose_reset_failed(mode: str, breaks: Any) -> None:
    env = tokens(num_envs=2, autoreset_mode=mode, task=breaks)
    env.reset(seed=0)
    if mode == "next_step":
        env.step([STOP, A])
    breaks.broken = "reset"
    with pytest.raises(RuntimeError, match="no more problems"):
        env.step([STOP, A])  # what row 1 was paid for it is lost
    breaks.broken = ""
    with pytest.raises(ResetNeeded):
        env.step([A, A])
    over = np.array([True, False])
    env.reset(options={"reset_mask": over})
    with pytest.raises(ResetNeeded):
        env.step([A, A])
    env.reset(options={"reset_mask": ~over})
    env.step([A, A])


@pytest.mark.parametrize("ended", [False, True])
def test_no_episode_follows_a_reset_that_failed(breaks: Any, ended: bool) -> None:
    env = tokens(num_envs=2, autoreset_mode="next_step", task=breaks)
    env.reset(seed=0)
    if ended:
        assert env.step([STOP, STOP])[2].all()
    breaks.broken = "reset"
    with pytest.raises(RuntimeError, match="no more problems"):
        env.reset(seed=1)
    breaks.broken = ""
    with pytest.raises(ResetNeeded):
        env.step([A, A])


def test_no_episode_follows_one_that_others_played_over() -> None:
    env = tokens(num_envs=2, autoreset_mode="next_step")
    env.reset(seed=0)
    env.unwrapped.episodes.cut([0, 1])  # as collect and searches over these rows do
    with pytest.raises(ResetNeeded):
        env.step([A, A])


def test_ends_that_were_told_are_followed_by_an_episode_whatever_was_refused_or_restored_between() -> None:
    env = tokens(num_envs=2, autoreset_mode="next_step")
    env.reset(seed=0)
    env.step([STOP, A])
    ended = env.unwrapped.snapshot([0])
    with pytest.raises(InvalidAction):
        env.step([A, 999])
    assert env.step([A, A])[4]["_token"].tolist() == [False, True]
    env.unwrapped.restore(ended, rows=[0])
    assert env.step([A, A])[4]["_token"].tolist() == [False, True]
    assert env.step([A, A])[4]["_token"].tolist() == [True, True]


def test_disabled_mode_resets_masked_rows_only() -> None:
    env = tokens(autoreset_mode="disabled")
    with pytest.raises(ResetNeeded, match="every row"):
        env.reset(options={"reset_mask": np.array([True, False, False])})
    env.reset(seed=0)
    observations = env.step([STOP, A, STOP])[0]
    with pytest.raises(ResetNeeded, match="row 0 is over"):
        env.step([A, A, A])
    options = {"reset_mask": np.array([True, False, True])}
    fresh, infos = env.reset(options=options)
    assert "reset_mask" in options
    assert infos["_prompt"].tolist() == [True, False, True]
    np.testing.assert_array_equal(fresh[1], observations[1])
    assert [len(env.unwrapped.episodes.actions(row)) for row in range(3)] == [0, 1, 0]
    env.step([A, A, A])


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([True, False, False], TypeError),
        (np.ones(3, dtype=int), TypeError),
        (np.ones(2, dtype=bool), ValueError),
        (np.zeros(3, dtype=bool), ValueError),
    ],
)
def test_bad_reset_masks_are_refused(mask: object, error: type[Exception]) -> None:
    env = tokens()
    env.reset(seed=0)
    with pytest.raises(error, match="reset_mask"):
        env.reset(options={"reset_mask": mask})


def test_seeds_go_up_by_one_a_row_or_come_in_a_list() -> None:
    env = make()
    env.reset(seed=5)
    assert [env.unwrapped.episodes.seed(row) for row in range(3)] == [5, 6, 7]
    first = env.reset(seed=[7, None, 5])[1]["prompt"]
    assert env.unwrapped.episodes.seed(1) not in (5, 6, 7)
    assert first[2] == env.reset(seed=5)[1]["prompt"][0]
    with pytest.raises(ValueError, match="one value for each environment"):
        env.reset(seed=[1, 2])
    unseeded = make()
    unseeded.reset()
    assert len({unseeded.unwrapped.episodes.seed(row) for row in range(3)}) == 3


def test_reset_without_a_seed_goes_on_reproducibly() -> None:
    prompts = []
    for _ in range(2):
        env = make()
        env.reset(seed=1)
        env.step([0, 1, 2])
        prompts.append([env.reset()[1]["prompt"].tolist() for _ in range(5)])
    assert prompts[0] == prompts[1]


def test_problem_seed_makes_groups() -> None:
    env = make(4)
    assert len(set(env.reset(seed=0, options={"problem_seed": 3})[1]["prompt"])) == 1
    prompts = env.reset(seed=0, options={"problem_seed": [3, 3, 4, None]})[1]["prompt"]
    assert prompts[0] == prompts[1]
    assert prompts[3] == make(1).reset(seed=3)[1]["prompt"][0]
    with pytest.raises(ValueError, match="problem_seed"):
        env.reset(options={"problem_seed": [1]})


def test_episode_statistics_are_recorded() -> None:
    modes = (("next_step", 1), ("same_step", 0)) if COUNTS_SAME_STEPS else (("next_step", 1),)
    for mode, idle in modes:
        env: Any = RecordEpisodeStatistics(tokens(num_envs=2, autoreset_mode=mode))
        env.reset(seed=0)
        digit = env.unwrapped.episodes.tasks.info(0)["digit"]
        env.step([ord(digit) + 1, A])
        _, _, _, _, infos = env.step([STOP, A])
        assert (infos["episode"]["r"][0], infos["episode"]["l"][0]) == (1.0, 2)
        for _ in range(1 + idle):
            _, _, _, _, infos = env.step([STOP, A])
        assert infos["episode"]["l"][0] == 1


def test_infos_fit_gymnasiums_list_wrapper() -> None:
    env = DictInfoToList(tokens(num_envs=2))
    env.reset(seed=0)
    infos = env.step([STOP, A])[4]
    assert infos[0]["final_info"]["text"] == "."
    assert infos[1] == {"token": A, "action": A}


def test_infos_are_batched_as_gymnasium_does() -> None:
    infos: list[dict[str, Any]] = [
        {"n": 1, "x": 0.5, "b": True, "s": "a", "v": np.zeros(2), "d": {"k": 1}, "t": (1, 2)},
        {"n": 2, "b": False, "s": "b", "v": np.ones(2), "d": {"k": 2}},
    ]
    reference: dict = {}
    env = make(4)
    for row, info in zip((1, 3), infos, strict=True):
        env._add_info(reference, info, row)
    ours = batch_infos(4, (1, 3), infos)
    assert ours.pop("t").tolist() == [None, (1, 2), None, None]
    reference.pop("t")
    assert_same(ours, reference)


@pytest.mark.parametrize(
    "whole",
    [
        {},
        {2: {"token": 9, "action": 3, "tokens": (9, 4), "success": True}},
        {1: {"prompt": "Look:", "action": "look"}},
        {0: {"prompt": "Say:", "token": 0.5}, 3: {"token": 7, "action": 6}},
        {row: {"prompt": "Say:"} for row in range(4)},
        {row: {"level": row, "token": row} for row in (3, 1, 0, 2)},
    ],
)
def test_the_infos_of_a_step_are_batched_as_dicts_are(whole: dict[int, dict[str, Any]]) -> None:
    infos = StepInfos(np.array([5, 6, 7, 8]), np.array([0, 1, 2, 3]), whole)
    ours, theirs = infos.batched(), batch_infos(4, range(4), list(infos))
    assert ours.keys() == theirs.keys()
    for key, values in theirs.items():
        assert ours[key].tolist() == values.tolist(), key
        assert ours[key].dtype == values.dtype, key


def test_the_infos_of_a_step_are_a_sequence_of_dicts() -> None:
    ended = {"token": 7, "action": 2, "success": True}
    infos = StepInfos(np.array([5, 6, 7]), np.array([0, 1, 2]), {2: ended})
    assert list(infos) == [{"token": 5, "action": 0}, {"token": 6, "action": 1}, ended]
    assert infos[-1] is ended
    assert infos[:2] == list(infos)[:2]
    assert all(type(number) is int for number in infos[0].values())
    with pytest.raises(IndexError):
        infos[3]


def test_mixed_infos_lose_nothing() -> None:
    infos: list[dict[str, Any]] = [{"x": 1, "y": 1, "big": 2**70}, {"x": 0.5, "y": None, "big": 1}]
    batched = batch_infos(2, (0, 1), infos)
    assert batched["x"].tolist() == [1.0, 0.5]
    assert batched["x"].dtype == np.float64
    assert batched["y"].tolist() == [1, None]
    assert batched["big"].tolist() == [2**70, 1]


def test_snapshots_of_all_rows_restore_and_fork() -> None:
    env = make(world_temperature=1.0).unwrapped
    env.reset(seed=0)
    env.step([0, 1, 2])
    states = env.snapshot()
    first = [env.step([3, 3, 3])[4] for _ in range(40)]
    env.reset(seed=9)
    env.restore(states)
    second = [env.step([3, 3, 3])[4] for _ in range(40)]
    assert any("final_info" in info for info in first)
    for a, b in zip(first, second, strict=True):
        assert_same(a, b)
    assert env.restore([states[0]], rows=[2], reseed=[5]).shape == (1, 16)
    assert env.unwrapped.episodes.tokens(2) == list(states[0].tokens)


@pytest.mark.parametrize("rows", [[1.9], [1.0], ["1"], [True], [None], [7], [-1]])
def test_rows_that_are_no_indices_are_refused_and_nothing_is_restored(rows: list) -> None:
    vector = make(2)
    vector.reset(seed=0)
    (state,) = vector.snapshot([0])
    for call in (lambda: vector.restore([state], rows=rows), lambda: vector.snapshot(rows)):
        with pytest.raises((TypeError, ValueError), match="rows must be "):
            call()
    assert vector.episodes.seed(1) == 1
    vector.restore([state], rows=np.array([1]))
    assert vector.episodes.seed(1) == 0


def test_action_masks_have_a_row_an_env() -> None:
    masks = tokens().unwrapped.action_masks()
    assert masks.shape == (3, 260)
    assert masks.sum() == 3 * 257
    space = tokens().action_space
    assert max(space.sample().max() for _ in range(1000)) == 256
    assert space.sample() in space
    assert np.array([1, 2, 257]) not in space


@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_forbidden_actions_are_in_no_space_of_a_vector_of_environments(mode: str) -> None:
    model = FakeBackbone("token")
    vector = gym.make_vec(
        "CoLA-Arithmetic-Token-v0", num_envs=2, model=model, vectorization_mode=mode, max_tokens=9
    )
    vector.action_space.seed(0)
    vector.reset(seed=0)
    for _ in range(100):
        vector.step(vector.action_space.sample())
    allowed = model.action_mask()
    forbidden = int(np.flatnonzero(~allowed)[0])
    assert not vector.action_space.contains(np.array([1, forbidden]))
    for one in (vector.single_action_space, vector.action_space[0]):
        assert 1 in one
        assert forbidden not in one
    assert np.array([1, forbidden]) not in vector.action_space[:2]
    spaces = batch_space(vector.single_action_space, 3)
    assert all(allowed[action] for _ in range(100) for action in spaces.sample())
    vector.close()


def test_rendering_gives_a_text_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    env = tokens(num_envs=2, render_mode="ansi")
    prompts = env.reset(seed=0)[1]["prompt"]
    env.step([A, A])
    assert env.render() == tuple(f"{prompt}a⟨98⟩" for prompt in prompts)
    env = tokens(num_envs=2, render_mode="human")
    env.reset(seed=0)
    env.step([A, STOP])
    assert capsys.readouterr().out == f"[row 1] {prompts[1]}.⟨47⟩\n"
    env.render()
    assert capsys.readouterr().out.startswith(f"[row 0] {prompts[0]}a⟨98⟩\n[row 1] Write")


def test_one_batched_call_a_step() -> None:
    env = make(8)
    session = env.unwrapped.episodes.session
    calls: list[Any] = []

    def watch(verb: str) -> None:
        method = getattr(session, verb)

        def watched(rows: list[int], *args: Any) -> Any:
            calls.append((verb, len(rows)))
            return method(rows, *args)

        setattr(session, verb, watched)

    for verb in ("decode", "extend"):
        watch(verb)
    env.reset(seed=0)
    calls.clear()
    env.step(np.zeros(8, dtype=int))
    assert calls[:2] == [("decode", 8), ("extend", 8)]


def test_spec_makes_the_vector_again_with_the_same_model() -> None:
    env = make(4, max_tokens=6)
    again: Any = gym.make_vec(env.spec)
    assert again.num_envs == 4
    assert again.unwrapped.episodes.backbone is env.unwrapped.episodes.backbone
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_envs": 0}, ValueError, "num_envs must be at least 1, got 0"),
        ({"num_envs": 2.0}, TypeError, r"num_envs must be an integer, got 2\.0"),
        ({"autoreset_mode": "sometimes"}, ValueError, "'next_step', 'same_step', 'disabled'"),
        ({"autoresetmode": "same_step"}, TypeError, "Did you mean 'autoreset_mode'"),
    ],
)
def test_bad_arguments_are_refused(settings: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 3.0}, "seed must be an integer or a list with one value for each environment, got 3.0"),
        ({"seed": True}, "seed must be an integer or a list .* got True"),
        ({"seed": "123"}, "seed must be an integer or a list .* got '123'"),
        ({"seed": [1, True, 3]}, "seeds must be integers >= 0, got True"),
        ({"options": {"problem_seed": 3.0}}, "problem_seed must be an integer or a list .* got 3.0"),
        ({"options": {"problem_seed": True}}, "problem_seeds must be integers >= 0, got True"),
        ({"options": ["problem_seed"]}, r"options must be a dict such as {'problem_seed': ...}, got \["),
        ({"options": 5}, "options must be a dict .* got 5"),
    ],
)
def test_seeds_and_options_of_the_wrong_kind_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().reset(**arguments)


def test_numbers_of_numpy_are_taken() -> None:
    env = make(np.int64(2), max_tokens=np.int32(6))
    _, infos = env.reset(seed=np.int64(5), options={"problem_seed": np.array([1, 2])})
    _, same = make(2, max_tokens=6).reset(seed=5, options={"problem_seed": [1, 2]})
    assert_same(infos, same)


@pytest.mark.parametrize(
    "values",
    [[2**63, -1], [2**60 + 1, 0.5], [np.uint64(2**63 + 1), np.int64(-1)], [2**70, 1], [2**70, 0.5]],
)
def test_numbers_that_no_array_type_holds_stay_what_they_are(values: list) -> None:
    infos = [{"a": value} for value in values]
    joined = batch_infos(3, [0, 2], infos)
    assert joined["a"].dtype == object
    assert joined["a"].tolist() == [values[0], None, values[1]]


@pytest.mark.parametrize(
    "values", [[1, 0.5], [float("nan"), 1], [2**53, 0.5], [True, 2], [np.float32(0.1), 2]]
)
def test_numbers_that_an_array_type_holds_are_joined(values: list) -> None:
    joined = batch_infos(2, [0, 1], [{"a": value} for value in values])["a"]
    assert joined.dtype.kind in "if"
    np.testing.assert_array_equal(joined, np.array(values))


def test_closing_closes_the_tasks_once() -> None:
    closed = []

    class Engine(Copy):
        def close(self) -> None:
            closed.append(self)

    env = make(task=Engine)
    env.reset(seed=0)
    env.close()
    env.close()
    assert len(closed) == 3


def test_single_states_and_rows_are_refused_where_lists_are_taken() -> None:
    env = make(2).unwrapped
    env.reset(seed=0)
    (state, _) = env.snapshot()
    with pytest.raises(TypeError, match="states must be a list with a state"):
        env.restore(state)
    with pytest.raises(TypeError, match="rows must be a list of rows, or None for all, got 0"):
        env.snapshot(0)
    assert len(env.snapshot([1, 1])) == 2
