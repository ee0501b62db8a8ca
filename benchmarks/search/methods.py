"""The compared methods of spending tokens on a problem, and the record of a run.

A run records the cost of every answer, which gives the accuracy at every smaller budget: a method that is
stopped at b tokens has the answers that it had found by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cola_agents.common.files import write_json
from cola_agents.search.baselines import CompleteEpisodes, beam_search
from cola_agents.search.config import Ending, SearchConfig
from cola_agents.search.evaluators import RolloutEvaluator
from cola_agents.search.mcts_q import MCTSQConfig, mcts_q
from cola_agents.search.playout import Judge, Values
from cola_agents.search.puct import answer_of, forwarded_since, search
from cola_envs import jsonl
from cola_envs.episodes import Episodes
from cola_envs.seeds import derived_seed


@dataclass(frozen=True)
class Stage:
    """The inputs of a method.

    Attributes:
        episodes: rows to search in, a problem each.
        policy, q: attached to their session; ``q`` gives the value of an answer where no judge does.
        judges: values of answers by other judges, by name.
        width: actions that a search considers in a state.
        budget: new model tokens a problem, after which no simulation or try begins.
        seed: of the search's draws; :func:`play` derives one from it for each batch of problems.
    """

    episodes: Episodes
    policy: Values
    q: Values
    width: int
    budget: int
    seed: int
    judges: Mapping[str, Judge] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The record of a method's run.

    Attributes:
        endings: per problem, in the order of play. ``text`` is the answer that they vote for, ``reward`` 1
            where it is right; actions and info are left out.
        new_tokens: of all problems together.
        forwarded: tokens that went through the language model, without the Q-function's trunk; None where
            the session does not count them.
        cpu_s: CPU seconds of all problems together, including the Q-function.
        commit: of the code; None where it is unknown.
    """

    endings: list[list[Ending]]
    new_tokens: int
    forwarded: int | None
    cpu_s: float
    commit: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: an ending is answer, value, whether it is right, and tokens spent."""
        endings = [
            [[ending.text, round(ending.value, 6), int(ending.reward), ending.spent] for ending in problem]
            for problem in self.endings
        ]
        return {**asdict(self), "endings": endings}

    @classmethod
    def of_dict(cls, kept: dict[str, Any]) -> Found:
        endings = [
            [Ending(text, (), value, float(right), {}, spent) for text, value, right, spent in problem]
            for problem in kept["endings"]
        ]
        return cls(**{**kept, "endings": endings})


Method = Callable[[Stage, list[int]], list[list[Ending]]]


def _greedy(stage: Stage, rows: list[int]) -> list[list[Ending]]:
    tries = CompleteEpisodes(stage.episodes, rows, stage.policy, stage.q)
    tries.play(temperature=0.0)
    return tries.endings


def _tries(by: str | None = None) -> Method:
    def run(stage: Stage, rows: list[int]) -> list[list[Ending]]:
        judge = stage.judges[by] if by else None
        tries = CompleteEpisodes(stage.episodes, rows, stage.policy, stage.q, seed=stage.seed, judge=judge)
        while which := [i for i in range(len(rows)) if tries.new_tokens[i] < stage.budget]:
            tries.play(which=which)
        return tries.endings

    return run


def _puct(rewards: Any, by: str | None = None) -> Method:
    def run(stage: Stage, rows: list[int]) -> list[list[Ending]]:
        evaluate = RolloutEvaluator(
            stage.episodes,
            lambda session, rows: stage.policy(rows),
            seed=stage.seed,
            q=stage.q if rewards == "estimated" and by is None else None,
            judge=stage.judges[by] if by else None,
        )
        config = SearchConfig(
            simulations=stage.budget, token_budget=stage.budget, width=stage.width, rewards=rewards
        )
        return search(stage.episodes, rows, evaluate, config, seed=stage.seed).endings

    return run


def _mcts_q(stop_at_end: bool, by: str | None = None) -> Method:
    def run(stage: Stage, rows: list[int]) -> list[list[Ending]]:
        # Going on, the budget is what ends it: a round costs a token at least.
        rounds = MCTSQConfig.rounds if stop_at_end else stage.budget
        config = MCTSQConfig(
            rounds=rounds, stop_at_end=stop_at_end, rewards="estimated", token_budget=stage.budget
        )
        judge = stage.judges[by] if by else None
        return mcts_q(
            stage.episodes, rows, stage.policy, stage.q, config, seed=stage.seed, judge=judge
        ).endings

    return run


#: ``mcts-q`` is the official search in all of its constants, 32 rounds at most and ended by an expansion
#: that ends its episode; ``mcts-q-on`` does not stop there but spends its budget. ``puct-true`` sees the
#: task's rewards: no method, but how far a perfect judge would take the same search.
METHODS: dict[str, Method] = {
    "greedy": _greedy,
    "tries": _tries(),
    "puct": _puct("estimated"),
    "mcts-q": _mcts_q(stop_at_end=True),
    "mcts-q-on": _mcts_q(stop_at_end=False),
    "puct-true": _puct("environment"),
}
#: Judges besides Q: the likelihood under the policy and under the base, and an outcome model.
JUDGES = ("policy", "base", "outcome")
METHODS |= {f"tries-{judge}": _tries(judge) for judge in JUDGES}
METHODS |= {f"puct-{judge}": _puct("estimated", judge) for judge in JUDGES}
METHODS |= {f"mcts-q-on-{judge}": _mcts_q(stop_at_end=False, by=judge) for judge in JUDGES}
#: Draws nothing: one seed says all.
SEEDLESS = ("greedy",)


def beam(width: int) -> Method:
    """Beam search; its answer is the likeliest ending, without the Q-function."""

    def run(stage: Stage, rows: list[int]) -> list[list[Ending]]:
        states = [stage.episodes.snapshot(row) for row in rows]
        beams = list(range(width))
        likeliest = []
        for state in states:
            stage.episodes.restore(beams, [state] * width)
            endings, tokens = beam_search(stage.episodes, beams, stage.policy)
            best = endings[0]
            likeliest.append([Ending(best.text, best.actions, best.value, best.reward, best.info, tokens)])
        return likeliest

    return run


def play(method: Method, stage: Stage, seeds: Sequence[int]) -> Found:
    """Run a method on the problems of some seeds, as many in parallel as there are rows.

    A search draws by the number of the row. The seed of each batch is derived from the stage's seed and the
    batch's first problem, so that no two problems draw the same numbers.
    """
    episodes, endings = stage.episodes, []
    before, started = forwarded_since(0, episodes), time.process_time()
    new = 0
    for at in range(0, len(seeds), episodes.num_rows):
        part = list(seeds[at : at + episodes.num_rows])
        session: Any = episodes.session
        session.forget()
        # All rows hold something from the first on: a beam is wider than the last few problems.
        fill = part + [part[-1]] * (episodes.num_rows - len(part))
        episodes.reset(list(range(episodes.num_rows)), fill)
        own = replace(stage, seed=derived_seed(stage.seed, part[0]))
        for problem in method(own, list(range(len(part)))):
            endings.append([_kept(ending) for ending in problem])
            new += problem[-1].spent
    return Found(endings, new, forwarded_since(before, episodes), round(time.process_time() - started, 3))


def _kept(ending: Ending) -> Ending:
    right = bool(ending.info.get("correct", ending.info["success"]))
    return Ending(str(answer_of(ending)), (), ending.value, float(right), {}, ending.spent)


def write(path: Path, run: Found) -> None:
    """Write a run to a file, atomically."""
    write_json(path, run.as_dict())


def read(path: Path) -> Found:
    """Read a run that :func:`write` wrote.

    Raises:
        ValueError: for a file that is damaged, naming it.
    """
    try:
        return Found.of_dict(jsonl.read_object(path, "endings"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} does not hold a run ({error}): remove it to play it again") from error
