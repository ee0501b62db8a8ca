"""A problem seed decides the problem, of every task, also where problems come in order."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import count
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from cola_agents import GRPO, RLOO, ReMax
from cola_agents.evaluation.run import evaluate
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_agents.rl.generate import generate, read
from cola_agents.search import MCTS, SearchConfig
from cola_envs import CoLAVectorEnv, EachRow, Episodes, Turn
from cola_envs.build import load
from cola_envs.engines import EnginePool, EngineTask, Game
from cola_envs.order import Order, order_of
from cola_envs.testing import FakeBackbone
from tests.package_ids import PACKAGE_IDS

PROBLEMS = [{"problem": f"What is {i}+{i}?", "answer": str(2 * i)} for i in range(5)]
PROMPTS = {"train": [f"Prompt {i}" for i in range(5)], "test": ["Prompt 0"]}
LISTED = {
    "CoLA-Math500-v0": {"problems": PROBLEMS},
    "CoLA-GSM8K-v0": {"problems": PROBLEMS},
    "CoLA-Preference-v0": {"prompts": PROMPTS, "scorer": lambda prompts, texts: [len(t) % 7 for t in texts]},
}
DRAWN = ["CoLA-Arithmetic-v0", "CoLA-Thinking-v0", "CoLA-Countdown-v0", "CoLA-TextRooms-v0"]
if find_spec("alfworld"):
    DRAWN.append("CoLA-Household-v0")
SEQUENTIAL = pytest.mark.parametrize("env_id", list(LISTED))


def toy(num_rows: int) -> EngineTask:
    pool = EnginePool("tests.engines.toy:ToyEngine", num_rows=num_rows, num_workers=1)
    games = [Game(i, {"unique_id": f"game {i}"}) for i in range(5)]
    return EngineTask(num_rows, pool=pool, games=games, sequential=True)


def make(env_id: str, num_envs: int = 4, **settings: Any) -> CoLAVectorEnv:
    kwargs = {**LISTED[env_id], "sequential": True} if env_id in LISTED else {}
    kwargs = {"task": toy} if env_id == "toy" else kwargs
    name = "CoLA-Text-v0" if env_id == "toy" else env_id
    settings = {"max_tokens": 4, "model": FakeBackbone("latent"), **kwargs, **settings}
    env: Any = gym.make_vec(name, num_envs=num_envs, **settings).unwrapped
    return env


@pytest.fixture(params=[*LISTED, "toy"])
def ordered(request: pytest.FixtureRequest) -> Iterator[CoLAVectorEnv]:
    env = make(request.param)
    yield env
    env.close()


def prompts(env: CoLAVectorEnv, rows: Sequence[int] = range(4)) -> list[str]:
    return [info["prompt"] for info in env.episodes.reset_infos(rows)]


def test_the_tasks_with_an_order_are_those_that_are_tried_here():
    ids = [key for key in PACKAGE_IDS if "Token" not in key]
    found = {
        i for i in ids if "sequential" in inspect.signature(load(gym.spec(i).kwargs["builder"])).parameters
    }
    engines = {"CoLA-ALFWorld-v0", "CoLA-ScienceWorld-v0"}
    assert found == set(LISTED) | engines
    for env_id in engines:  # the toy engine's game stands for theirs: what draws a game is EngineTask's
        builder: Any = load(gym.spec(env_id).kwargs["builder"])
        assert issubclass(builder, EngineTask)
        assert builder.reset is EngineTask.reset


@pytest.mark.parametrize("env_id", DRAWN)
def test_a_problem_seed_draws_one_problem_whatever_the_row_seed(env_id):
    env = make(env_id)
    env.reset(seed=[1, 2, 3, 4], options={"problem_seed": 8})
    assert len(set(prompts(env))) == 1
    env.reset(seed=9, options={"problem_seed": [8, 9, 8, 9]})
    assert prompts(env)[:2] == prompts(env)[2:]
    env.close()


def test_in_order_a_problem_seed_is_a_place_and_without_one_the_next_is_taken(ordered):
    env = ordered
    env.reset(seed=0)
    first = prompts(env)
    assert len(set(first)) == 4
    env.reset(seed=0, options={"problem_seed": 2})
    assert prompts(env) == [first[2]] * 4
    env.reset(seed=0)
    env.reset(options={"problem_seed": [7, None, 5, None]})
    fifth = prompts(env)[1]
    assert fifth not in first, "what was given did not count"
    assert prompts(env) == [first[2], fifth, first[0], first[1]], "row 3 got what another row had"
    assert [env.episodes.problem_seed(row) for row in range(4)] == [7, 4, 5, 6]


def test_in_order_a_seed_starts_again_and_a_reset_without_one_goes_on(ordered):
    env = ordered
    env.reset(seed=0)
    first = prompts(env)
    env.reset()
    fifth = prompts(env)[0]
    assert fifth not in first
    assert prompts(env) == [fifth, *first[:3]]
    for seed in (0, 9, [3, 1, 4, 1]):
        env.reset(seed=seed)
        assert prompts(env) == first
    env.reset(seed=[7, None, 7, 7])
    assert prompts(env) == [fifth, *first[:3]], "one row has no seed: the order goes on"


def test_in_order_a_masked_reset_with_seeds_starts_again_in_its_first_row():
    env = make("CoLA-Math500-v0", autoreset_mode="disabled")
    env.reset(seed=0)
    first = prompts(env)
    mask = np.array([False, True, False, True])
    env.reset(seed=0, options={"reset_mask": mask})
    assert prompts(env) == [first[0], first[0], first[2], first[1]]
    env.reset(options={"reset_mask": ~mask})
    assert prompts(env)[::2] == [first[2], first[3]]


@SEQUENTIAL
def test_in_order_a_single_environment_keeps_gymnasiums_rules(env_id):
    kwargs: Any = {**LISTED[env_id], "sequential": True, "max_tokens": 4, "model": FakeBackbone("latent")}
    env: Any = gym.make(env_id, **kwargs).unwrapped
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*A Box observation space m..imum value is.*")
        check_env(env, skip_render_check=True)
    first = env.reset(seed=0)[1]["prompt"]
    second, third = (env.reset()[1]["prompt"] for _ in range(2))
    assert len({first, second, third}) == 3
    assert env.reset(seed=1)[1]["prompt"] == first
    state = env.snapshot()
    assert env.reset()[1]["prompt"] == second
    env.restore(state)
    assert env.reset()[1]["prompt"] == third


@SEQUENTIAL
def test_in_order_a_rollout_says_which_problems_it_played(env_id):
    env = make(env_id, num_envs=3, model=None)
    rollout = collect(env.episodes, InitialPolicy(), seeds=range(100, 107))
    assert rollout.problem_seeds.tolist() == list(range(7))
    assert [rollout.prompts[n] == rollout.prompts[n - 5] for n in (5, 6)] == [True, True]
    again = collect(env.episodes, InitialPolicy(), seeds=range(100, 107), problem_seeds=rollout.problem_seeds)
    assert again.prompts == rollout.prompts
    env.close()


@SEQUENTIAL
@pytest.mark.parametrize("cls", [GRPO, RLOO])
def test_a_group_has_one_problem_and_updates_take_them_in_order(cls, env_id):
    kwargs = {**LISTED[env_id], "sequential": True, "max_tokens": 3}
    agent = cls(env_id, num_envs=3, env_kwargs=kwargs, prompts=2, group_size=4)
    seen = []
    for _ in range(2):
        rollout = agent.batch().rollout
        groups = [rollout.prompts[at : at + 4] for at in (0, 4)]
        assert all(len(set(map(tuple, group))) == 1 for group in groups)
        assert rollout.problem_seeds.tolist() == [n // 4 + 2 * agent.num_updates for n in range(8)]
        seen += [tuple(group[0]) for group in groups]
        agent.update()
    assert len(set(seen)) == 4
    agent.close()


@SEQUENTIAL
def test_a_greedy_baseline_answers_the_problem_that_the_drawn_answer_was_to(env_id):
    kwargs = {**LISTED[env_id], "sequential": True, "max_tokens": 3}
    agent = ReMax(env_id, num_envs=3, env_kwargs=kwargs, episodes=5)
    seeds, problems = agent.draw_seeds(5)
    drawn, greedy = agent.play(seeds, problems), agent.play(seeds, problems, greedy=True)
    assert drawn.prompts == greedy.prompts
    assert len(set(map(tuple, drawn.prompts))) == 5
    agent.close()


def test_an_evaluation_plays_each_problem_once_a_round_and_in_order(monkeypatch):
    import cola_agents.evaluation.run as module

    rounds: list[Any] = []
    summary = module.summary
    monkeypatch.setattr(module, "summary", lambda played: rounds.extend(played) or summary(played))
    evaluate(
        "CoLA-Math500-v0", samples=3, seed=7, num_envs=2, env_kwargs={"problems": PROBLEMS, "max_tokens": 3}
    )
    names = [[one.info["unique_id"] for one in played] for played in rounds]
    assert names == [[f"problems/{i}" for i in range(5)]] * 3


def test_recorded_answers_are_to_the_problems_in_order_also_where_a_file_is_gone_on_with(tmp_path):
    kwargs = {**LISTED["CoLA-Preference-v0"], "sequential": True, "split": "train", "max_tokens": 3}
    path = tmp_path / "tries.jsonl"
    for _ in range(2):
        generate("CoLA-Preference-v0", path, problems=5, n=2, num_envs=2, env_kwargs=kwargs)
        names = [episode["info"]["prompt"] for episode in read(path).episodes]
        assert names == [f"Prompt {i // 2}" for i in range(10)]
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))  # what a kill may leave


def test_a_search_takes_the_problem_of_its_seed():
    kwargs = {**LISTED["CoLA-Preference-v0"], "sequential": True, "max_tokens": 3}
    solver = MCTS("CoLA-Preference-v0", SearchConfig(simulations=2), num_trees=2, env_kwargs=kwargs)
    for _ in range(2):
        solver.solve([3, 6, 8])
        assert prompts(solver, [0]) == ["Prompt 3"]  # 8, counted round 5 problems
    solver.solve([3, 6], [0, 2])
    assert prompts(solver, [0, 1]) == ["Prompt 0", "Prompt 2"]
    with pytest.raises(ValueError, match="2 seeds and 1 problem seeds"):
        solver.solve([3, 6], [0])
    solver.close()


# ------------------------------------------------------------------ tasks that break the rule


class Counting:
    """Asks another question at every reset, whatever its generator says."""

    stop = ("\n",)
    questions = count()

    def reset(self, rng: np.random.Generator) -> str:
        return f"Question {next(self.questions)}\n"

    def step(self, text: str) -> Turn:
        return Turn(reward=float(len(text)))


class Batch(EachRow):
    def __init__(self, num_rows: int) -> None:
        super().__init__(Counting, num_rows)


TWO = "EachRow gave two prompts for problem seed"


def test_a_task_that_ignores_its_generator_is_refused_before_a_group_is_played():
    env = make("CoLA-Text-v0", task=Counting)
    env.reset(seed=1)
    with pytest.raises(ValueError, match=TWO):
        env.reset(seed=1, options={"problem_seed": 3})


@pytest.mark.parametrize("cls", [GRPO, RLOO])
@pytest.mark.parametrize("num_envs", [1, 8])
def test_a_task_that_ignores_its_generator_is_refused_by_agents_that_compare(cls, num_envs):
    kwargs = {"task": Counting, "max_tokens": 3}
    agent = cls("CoLA-Text-v0", num_envs=num_envs, env_kwargs=kwargs, prompts=2, group_size=4)
    before = [p.clone() for p in agent.actor.parameters()]
    with pytest.raises(ValueError, match=TWO):
        agent.update()
    assert all((a == b).all() for a, b in zip(before, agent.actor.parameters(), strict=True))


def test_a_task_that_ignores_its_generator_is_refused_by_a_baseline():
    agent = ReMax("CoLA-Text-v0", num_envs=4, env_kwargs={"task": Counting, "max_tokens": 3}, episodes=4)
    with pytest.raises(ValueError, match=TWO):
        agent.update()


def test_texts_that_change_from_play_to_play_are_no_fault_of_a_task_that_says_so():
    class Moody(Batch):
        repeatable = False

    episodes = Episodes(FakeBackbone("latent"), Moody(4), num_rows=4, max_tokens=3)
    episodes.reset(range(4), [1, 2, 3, 4], [5] * 4)


def test_the_order_counts_only_what_nobody_chose():
    order = Order(4)
    assert order.seeds([7, np.int64(2)]) == [7, 2]
    assert order.seeds([None, None]) == [0, 1]


def test_the_order_passes_over_what_the_call_names_once():
    order = Order(3)
    assert order.seeds([0, None]) == [0, 1]
    order.restart()
    assert order.seeds([None, 7, None, np.int64(2), None, None]) == [0, 7, 3, 2, 4, 5]
    assert Order(1).seeds([0, None, None]) == [0, 1, 2]
    assert order_of(Batch(1)) is None
