"""Collect the data of a page step by step: episodes, token-level twins, a codebook, a search tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cola_agents.common.provenance import provenance
from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.evaluation.inspection import inspect_codebook, text_source
from cola_agents.evaluation.look.book import codebook, tree
from cola_agents.evaluation.look.follow import Known, Player, known
from cola_agents.model.sampling import Drawing
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_agents.rl.rows import make_rows
from cola_agents.search import MCTS, SearchConfig
from cola_envs.build import twin_id
from cola_envs.episodes import Episodes
from cola_envs.jsonl import JsonObject
from cola_envs.page.log import Words
from cola_envs.shown import shown_line

#: Parallel rows in which alternative continuations are played.
ROWS = 32


@dataclass(frozen=True)
class Wanted:
    """The sizes of a page's parts.

    Attributes:
        episodes: how many are shown, and as many of the token-level twin.
        positions: positions of each episode that get alternative continuations.
        tables: tables of all actions, over all episodes together.
        simulations: of the search tree; 0 for no tree.
        tokens, text: to measure the codebook on; 0 tokens for no codebook, no text for the generated corpus.
    """

    episodes: int = 4
    positions: int = 12
    tables: int = 1000
    simulations: int = 64
    tokens: int = 10_000
    text: Path | None = None

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"--episodes must be at least 1, got {self.episodes}")
        for name in ("positions", "tables", "simulations", "tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative, got {getattr(self, name)}")
        if self.text is not None and not self.tokens:
            raise ValueError("--text is read for --tokens, which are 0: leave one of them out")
        if self.text is not None and not self.text.is_file():
            raise FileNotFoundError(f"there is no file {self.text} to read text from")


@dataclass
class Filling:
    """A page whose data is being collected.

    Attributes:
        wanted: the sizes of its parts.
        words: its token texts.
        problems: problem seed -> number of the problem on the page.
        data: the argument of :func:`cola_envs.page.write.page`.
    """

    wanted: Wanted
    words: Words = field(default_factory=Words)
    problems: dict[int, int] = field(default_factory=dict)
    data: JsonObject = field(default_factory=lambda: {"episodes": [], "pairs": []})

    def add(self, rows: Episodes, episodes: Sequence[Known], name: str, **playing: Any) -> None:
        """Add episodes, each replayed in ``rows``; ``playing`` are arguments of :class:`Player`."""
        groups = 2 if isinstance(rows.backbone, LatentBackbone) or self.data["episodes"] else 1
        tables = math.ceil(self.wanted.tables / (groups * self.wanted.episodes))
        player = Player(rows, self.words, positions=self.wanted.positions, tables=tables, **playing)
        for episode in episodes:
            number = self.problems.setdefault(episode.problem_seed, len(self.problems) + 1)
            titled = f"{number}. {name}"
            tries = sum(shown["name"].startswith(titled) for shown in self.data["episodes"])
            self.data["episodes"].append(
                player.follow(episode, f"{titled} ({tries + 1})" if tries else titled)
            )

    def add_twin(self, task: str, episodes: Sequence[Known], settings: JsonObject) -> None:
        """Add episodes of the same problems by the base language model, over tokens.

        Args:
            settings: arguments of the environment, including the model.
        """
        seeds, problems = _problems(episodes)
        with closing(make_rows(twin_id(task), ROWS, **settings)) as made:
            rollout = collect(made.episodes, InitialPolicy(), seeds=seeds, problem_seeds=problems)
            played = [known(rollout, number) for number in range(len(rollout))]
            self.add(made.episodes, played, "tokens: the language model itself")

    def add_codebook(self, backbone: object) -> None:
        """Measure the codebook of a latent backbone."""
        if self.wanted.tokens and isinstance(backbone, LatentBackbone):
            source, named = text_source(self.wanted.text)
            inspection = inspect_codebook(backbone, source, tokens=self.wanted.tokens, named=named)
            self.data["codebook"] = codebook(inspection)

    def add_tree(
        self,
        rows: Episodes,
        seed: int,
        problem: int,
        policy: Any = None,
        drawing: Drawing | None = None,
    ) -> None:
        """Search a problem of an episode that was added before; ``policy``, ``drawing`` as in ``MCTS``."""
        if self.wanted.simulations:
            config = SearchConfig(simulations=self.wanted.simulations)
            result = MCTS(rows, config, policy=policy, drawing=drawing).solve([seed], [problem])
            count = int(result.simulations[0])
            title = f"PUCT on problem {self.problems[problem]}: {count} simulations, with the task's rewards"
            self.data["tree"] = tree(result, rows.backbone.tokenizer, title)

    def finished(self, title: str, about: Sequence[tuple[str, object]]) -> JsonObject:
        """The complete data, with a title and the page's provenance."""
        made = provenance()
        facts = [*about, ("cola-rl", made["packages"]["cola-rl"]), ("commit", made["commit"])]
        self.data["title"] = shown_line(title)
        self.data["about"] = [[name, shown_line(str(value))] for name, value in facts if value is not None]
        self.data["words"] = self.words.texts
        self.data["pairs"] = _pairs(self.data["episodes"])
        return self.data


def _problems(episodes: Sequence[Known]) -> tuple[list[int], list[int]]:
    """Row seeds and problem seeds of the distinct problems, in the order of their first episodes."""
    first = {one.problem_seed: one.seed for one in reversed(episodes)}
    problems = sorted(first, key=lambda problem: [one.problem_seed for one in episodes].index(problem))
    return [first[problem] for problem in problems], problems


def _pairs(episodes: Sequence[JsonObject]) -> list[JsonObject]:
    """Pairs of episodes of the same problem: each later one beside the first."""
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(episodes):
        groups.setdefault(one["problem_seed"], []).append(number)
    return [{"left": first, "right": other} for first, *others in groups.values() for other in others]
