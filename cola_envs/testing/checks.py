"""Conformance checks for tasks and environments."""

from __future__ import annotations

import io
import math
import pickle
import random
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from functools import partial
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.vector import AutoresetMode

from cola_envs.contract import checked_fields, checked_turn
from cola_envs.env import CoLAEnv
from cola_envs.episodes import Episodes
from cola_envs.fields import NUM_TOKENS, SUCCESS, TEXT
from cola_envs.infos import batch_infos
from cola_envs.task import EachRow, Task, Turn
from cola_envs.testing.kinds import InfoKinds
from cola_envs.vector import CoLAVectorEnv

#: The results of ``reset`` and of every step; of a task its prompt and turns.
Episode = list[Any]
#: The episodes of one row.
Run = list[Episode]
T = TypeVar("T")
TEXTS = ("42", "", "\\boxed{7}", "two words é", "<think>x</think><answer>y</answer>")


def check_task(
    factory: Callable[[], Task], texts: Sequence[str] = TEXTS, seeds: Sequence[int] = (0, 1, 2)
) -> None:
    """Check a one-row task: types, randomness only from ``rng``, independent rows, snapshot and restore.

    Args:
        factory: makes a task, as for ``gym.make("CoLA-Text-v0", task=factory)``.
        texts: segments that an agent might write; include correct ones to check their reward.
        seeds: of the problems.

    Warns:
        UserWarning: where every episode is done at its first turn and has a text behind it.

    Raises:
        AssertionError: with the requirement that the task does not meet.
        TypeError: for a task object in place of its class, or a function that makes one.
    """
    if not callable(factory):
        raise TypeError(f"check_task takes a task's class, or a function that makes one, got {factory!r:.80}")
    rows = list(range(len(seeds)))
    tasks = EachRow(factory, len(rows))
    global_states = random.getstate(), pickle.dumps(np.random.get_state())
    alone = [_play(EachRow(factory, 1), 0, seed, texts) for seed in seeds]
    assert _equal(alone, [_play(EachRow(factory, 1), 0, seed, texts) for seed in seeds]), (
        "the same seed gave another episode the second time: take all randomness from the rng of reset"
    )
    assert global_states == (random.getstate(), pickle.dumps(np.random.get_state())), (
        "the task drew from the global random state; use only the rng of reset"
    )

    kinds = InfoKinds()
    for seed in seeds:
        for begin in range(len(texts)):  # a one-segment task grades only the first text
            _play(EachRow(factory, 1), 0, seed, [*texts[begin:], *texts[:begin]], kinds)

    for problem in (
        "beside others: rows must share no state",
        "the second time: reset must clear everything",
    ):
        played = [_play(tasks, row, seed, texts) for row, seed in zip(rows, seeds, strict=True)]
        assert _equal(played, alone), f"a task played differently {problem}"
    if all(len(episode) == 2 and episode[1].done and episode[1].text for episode in alone):
        warnings.warn(
            "every episode was done at its first turn, and yet the task wrote a text behind it, which no "
            "agent answers: Turn.done is True by default; give done=False where the episode goes on",
            UserWarning,
            stacklevel=2,
        )
    _check_interleaved(tasks, alone, texts, seeds)
    for episode, seed in zip(alone, seeds, strict=True):
        _check_replays(factory, episode, texts, seed)


def _check_interleaved(
    tasks: EachRow, alone: list[Episode], texts: Sequence[str], seeds: Sequence[int]
) -> None:
    """Tasks that are stepped in turn play as they do alone."""
    rows = list(range(len(seeds)))
    prompts = tasks.reset(rows, [np.random.default_rng([seed, 1]) for seed in seeds])
    open_rows = list(rows)
    together: list[Episode] = [[prompt] for prompt in prompts]
    for text in texts:
        for row, turn in zip(open_rows, tasks.step(open_rows, [text] * len(open_rows)), strict=True):
            together[row].append(turn)
        open_rows = [
            row for row in open_rows if not together[row][-1].done and not together[row][-1].truncated
        ]
    assert _equal(together, alone), "tasks that took turns played differently: rows must share no state"


def _check_replays(factory: Callable[[], Task], episode: Episode, texts: Sequence[str], seed: int) -> None:
    """A task restored after any segment of ``episode`` continues it."""
    for cut in range(len(episode) - 1):
        first, second = EachRow(factory, 1), EachRow(factory, 1)
        first.reset([0], [np.random.default_rng([seed, 1])])
        for text in texts[:cut]:
            first.step([0], [text])
        state = pickle.loads(pickle.dumps(first.snapshot(0)))
        _play_on(first, texts[cut:])
        for _ in range(2):
            second.restore(0, state)
            assert _equal(_play_on(second, texts[cut:]), episode[cut + 1 :]), (
                f"a task restored after {cut} segments went on differently; "
                "check its snapshot() and restore(state)"
            )


def _play(
    tasks: EachRow, row: int, seed: int, texts: Sequence[str], kinds: InfoKinds | None = None
) -> Episode:
    """Play one episode and check it; return its prompt and turns."""
    prompt = tasks.reset([row], [np.random.default_rng([seed, 1])])[0]
    assert prompt and isinstance(prompt, str), f"reset must return a non-empty str, got {prompt!r}"  # noqa: PT018 (one message)
    fields = partial(checked_fields, name="task.info")
    infos = [_allowed(fields, tasks.info(row), where=f"problem {seed} at its start")]
    turns = _play_on(tasks, texts, row)
    infos.append(_allowed(fields, tasks.info(row), where=f"problem {seed} at its end"))
    infos += [turn.info for turn in turns]
    if kinds is not None:
        for info in infos:
            kinds.see(info)
    return [prompt, *turns]


def _allowed(check: Callable[..., T], value: object, where: str) -> T:
    """The result of ``check``; its TypeError or ValueError becomes an AssertionError."""
    try:
        return check(value, where=where)
    except (TypeError, ValueError) as error:
        raise AssertionError(str(error)) from error


def _play_on(tasks: EachRow, texts: Sequence[str], row: int = 0) -> list[Turn]:
    """Step a task with ``texts`` until its episode ends; check and return the turns."""
    turns: list[Turn] = []
    for text in texts:
        turn = _allowed(checked_turn, tasks.step([row], [text])[0], f"segment {len(turns)}")
        for key, value in turn.info.items():
            assert not hasattr(value, "requires_grad"), (
                f"Turn.info[{key!r}] is a tensor; give numbers or text"
            )
            pickle.dumps(value)
        turns.append(turn)
        if turn.done or turn.truncated:
            break
    return turns


def check_env(env_id: str, num_envs: int = 3, episodes: int = 3, **kwargs: Any) -> None:
    """Check an environment: Gymnasium's checks, seeding, independent rows, ends, snapshots, infos, errors.

    Args:
        env_id: a registered id.
        num_envs: rows of the vector environment, at least 2.
        episodes: number of episodes of each row; each takes up to ``max_tokens`` steps.
        kwargs: as for ``gym.make``; ``model=FakeBackbone()`` checks without a language model. Not
            ``sequential=True``, under which the rows play other problems than the single environment.

    Raises:
        AssertionError: with the requirement that the environment does not meet.
    """
    single = _single(env_id, kwargs)
    kwargs = {**kwargs, "model": single.episodes.backbone}
    kwargs.pop("tokenizer", None)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        # Gymnasium's checker warns about an observation without bounds, such as a hidden state.
        warnings.filterwarnings("ignore", message=".*A Box observation space m..imum value is.*")
        gymnasium_check_env(single, skip_render_check=False)
    single.close()
    single = _single(env_id, kwargs)
    # Same-step autoreset returns both the last observation and info and the next episode's first.
    kwargs["autoreset_mode"] = AutoresetMode.SAME_STEP
    vector = gym.make_vec(env_id, num_envs=num_envs, **kwargs).unwrapped
    assert isinstance(vector, CoLAVectorEnv)
    try:
        _check_errors(single)
        runs = [_run(single, seed, episodes) for seed in range(num_envs)]
        _check_kinds(runs)
        _check_seeding(single, runs, episodes)
        _check_ends(single, runs)
        _check_snapshots(single, runs[0][0])
        _check_vector(vector, runs, episodes)
    finally:
        single.close()
        vector.close()


def _single(env_id: str, kwargs: dict[str, Any]) -> CoLAEnv:
    env = gym.make(env_id, **kwargs).unwrapped
    assert isinstance(env, CoLAEnv), f"{env_id} makes a {type(env).__name__}, which is not a CoLAEnv"
    return env


def _actions(env: CoLAEnv | CoLAVectorEnv, seed: int) -> Callable[[], int]:
    """A row's random allowed actions, the same in the single and the vector environment."""
    allowed = np.flatnonzero(env.action_masks().reshape(-1, env.episodes.action_mask.size)[0])
    rng = np.random.default_rng(seed)
    return lambda: int(rng.choice(allowed))


def _run(env: CoLAEnv, seed: int, episodes: int) -> Run:
    """Play episodes in the single environment, the first with ``seed``."""
    act, played = _actions(env, seed), list[Episode]()
    for number in range(episodes):
        steps: Episode = [env.reset(seed=seed if number == 0 else None)]
        over = False
        while not over:
            steps.append(env.step(act()))
            over = steps[-1][2] or steps[-1][3]
        played.append(steps)
    return played


def _same(first: Any, second: Any, tolerance: float = 1e-5) -> bool:
    """Whether two results are equal, floats up to the ``tolerance`` by which batched kernels may differ.

    A NaN is equal to a NaN.
    """
    same = partial(_same, tolerance=tolerance)
    if isinstance(first, np.ndarray):
        if not isinstance(second, np.ndarray) or (first.shape, first.dtype) != (second.shape, second.dtype):
            return False
        if first.dtype.kind == "f":
            return np.allclose(first, second, atol=tolerance, rtol=tolerance, equal_nan=True)
        return same(first.tolist(), second.tolist())
    if isinstance(first, Turn):
        return isinstance(second, Turn) and same(vars(first), vars(second))
    if isinstance(first, (float, np.floating)):
        if not isinstance(second, (int, float, np.number)):
            return False
        both_nan = math.isnan(first) and second != second
        return both_nan or math.isclose(first, second, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(first, (list, tuple)):
        if not isinstance(second, type(first)) or len(first) != len(second):
            return False
        return all(map(same, first, second))
    if isinstance(first, dict):
        if not isinstance(second, dict) or first.keys() != second.keys():
            return False
        return all(same(first[key], second[key]) for key in first)
    return type(second) is not np.ndarray and bool(first == second)


_equal = partial(_same, tolerance=0.0)


def _check_seeding(env: CoLAEnv, runs: list[Run], episodes: int) -> None:
    again = _run(env, 0, episodes)
    assert _same(again, runs[0]), "the same seed and actions gave another trajectory the second time"
    if len({run[0][0][1]["prompt"] for run in runs}) > 1:
        env.reset(seed=0, options={"problem_seed": 1})
        assert _same(env.reset(seed=5, options={"problem_seed": 1})[1], runs[1][0][0][1]), (
            "options={'problem_seed': 1} did not give the problem of seed 1"
        )


def _check_kinds(runs: list[Run]) -> None:
    kinds = InfoKinds()
    for run in runs:
        for (_, info), *steps in run:
            kinds.see(info)
            for step in steps:
                kinds.see(step[4])


def _check_ends(env: CoLAEnv, runs: list[Run]) -> None:
    max_tokens = env.episodes.max_tokens
    for run in runs:
        for steps in run:
            for _, reward, terminated, truncated, info in steps[1:]:
                assert math.isfinite(reward), f"a reward is {reward}"
                assert not (terminated and truncated), "a step both terminated and truncated"
                assert {"token", "action"} <= info.keys(), f"info lacks token or action: {info}"
                assert all(not hasattr(value, "requires_grad") for value in info.values()), (
                    "info holds a tensor"
                )
            info = steps[-1][4]
            for field in (TEXT, SUCCESS, NUM_TOKENS):
                assert type(info.get(field.name)) is field.kind, (
                    f"at the end info[{field.name!r}] must be a {field.kind.__name__}: {info}"
                )
            assert 1 <= info["num_tokens"] <= max_tokens, (
                f"num_tokens is {info['num_tokens']} of {max_tokens}"
            )
            if info["num_tokens"] == max_tokens and env.episodes.budget_end == "terminate":
                assert steps[-1][2], 'budget_end="terminate" did not terminate a spent budget'


def _check_snapshots(env: CoLAEnv, steps: Episode) -> None:
    """An episode restored half-way continues as before, whatever was played in between."""
    half = (len(steps) - 1) // 2
    act = _actions(env, 0)
    env.reset(seed=0)
    for _ in range(half):
        env.step(act())
    actions = [act() for _ in range(len(steps) - 1 - half)]
    before = env.episodes.observe([0])[0]
    state = pickle.loads(pickle.dumps(env.snapshot()))
    for _ in range(2):
        assert _same([env.step(action) for action in actions], steps[half + 1 :]), (
            "an episode that was restored (or snapshot) went on differently"
        )
        env.reset(seed=1)
        assert _same(env.restore(state), before), "restore returned another observation than the snapshot's"
    env.restore(state, reseed=123)
    assert env.episodes.tokens(0) == list(state.tokens), "a reseeded fork lost its text"


def _check_vector(env: CoLAVectorEnv, runs: list[Run], episodes: int) -> None:
    """Every row of the vector environment plays the episodes of the single environment."""
    masks = env.action_masks()
    assert masks.shape == (env.num_envs, env.episodes.action_space.n), f"action_masks has shape {masks.shape}"
    acts = [_actions(env, row) for row in range(env.num_envs)]
    observations, infos = env.reset(seed=0)
    number, position = [0] * env.num_envs, [0] * env.num_envs
    firsts = [run[0][0] for run in runs]
    assert _same(observations, np.stack([first[0] for first in firsts])), (
        "a row starts at another observation"
    )
    assert _same(infos, batch_infos(env.num_envs, range(env.num_envs), [first[1] for first in firsts]))
    while min(number) < episodes:
        observations, rewards, terminated, truncated, infos = env.step(np.array([act() for act in acts]))
        for row in range(env.num_envs):
            if number[row] >= episodes:
                continue
            position[row] += 1
            expected = runs[row][number[row]][position[row]]
            over = bool(terminated[row] or truncated[row])
            observation = infos["final_obs"][row] if over else observations[row]
            result = (observation, float(rewards[row]), bool(terminated[row]), bool(truncated[row]))
            where = f"row {row}, episode {number[row]}, step {position[row]}"
            assert _same(result, expected[:4]), f"{where}: the vector environment differs from the single one"
            source = infos["final_info"] if over else infos
            for key, value in expected[4].items():
                assert source[f"_{key}"][row], f"{where}: info lacks {key!r}"
                if not isinstance(value, dict):
                    assert _same(value, source[key][row]), f"{where}: info[{key!r}] differs"
            if over:
                number[row], position[row] = number[row] + 1, 0
                if number[row] < episodes:
                    assert _same(observations[row], runs[row][number[row]][0][0]), (
                        f"{where}: autoreset did not return the next episode's first observation"
                    )


def _check_errors(env: CoLAEnv) -> None:
    episodes: Episodes = env.episodes
    env.reset(seed=0)
    size = int(episodes.action_space.n)
    before = env.snapshot()
    wrong: tuple[Any, ...] = (size, -1, None, "1", 1.0, True)
    for bad in wrong:
        try:
            env.step(bad)
        except gym.error.InvalidAction:
            assert env.snapshot().tokens == before.tokens, (
                f"action {bad!r} was refused, but changed the episode"
            )
        else:
            raise AssertionError(f"action {bad!r} was taken; it must raise gymnasium.error.InvalidAction")
    act = _actions(env, 0)
    with suppress(gym.error.ResetNeeded):
        for _ in range(episodes.max_tokens + 1):
            env.step(act())
        raise AssertionError("a step after the end must raise gymnasium.error.ResetNeeded")
