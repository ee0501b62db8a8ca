"""A page's data while it is filled: episodes, twins, a codebook, a tree."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cola_agents.common.provenance import provenance
from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.evaluation.inspection import inspect_codebook, read_documents
from cola_agents.evaluation.look.book import codebook, tree
from cola_agents.evaluation.look.follow import Known, Player, known
from cola_agents.rl.rollout import InitialPolicy, collect
from cola_agents.rl.rows import make_rows
from cola_agents.search import MCTS, SearchConfig
from cola_agents.train.bundled.corpus import HELD_OUT, documents
from cola_envs.build import twin_id
from cola_envs.episodes import Episodes
from cola_envs.jsonl import JsonObject
from cola_envs.page.log import Words
from cola_envs.shown import shown_line

#: Rows in which futures are played side by side.
ROWS = 32


@dataclass(frozen=True)
class Wanted:
    """What a page is to hold.

    Attributes:
        episodes: episodes of what is looked at; as many of its twin come beside them.
        positions: of each episode's positions, those with other futures.
        tables: tables of all actions, over all episodes together.
        simulations: of the search tree; 0 for none.
        tokens, text: of the codebook's measurement; 0 tokens for none, None for the generated corpus.
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


@dataclass
class Filling:
    """A page that is being filled.

    Attributes:
        wanted: what it is to hold.
        words: its token texts.
        problems: the numbers that its problems have there, by their seeds.
        data: what it holds, as :func:`cola_envs.page.write.page` takes it.
    """

    wanted: Wanted
    words: Words = field(default_factory=Words)
    problems: dict[int, int] = field(default_factory=dict)
    data: JsonObject = field(default_factory=lambda: {"episodes": [], "pairs": []})

    def add(self, rows: Episodes, episodes: Sequence[Known], name: str, **playing: Any) -> None:
        """Add episodes, each followed in ``rows``; arguments as of :class:`Player`."""
        tables = max(1, self.wanted.tables // (2 * self.wanted.episodes))
        player = Player(rows, self.words, positions=self.wanted.positions, tables=tables, **playing)
        for one in episodes:
            number = self.problems.setdefault(one.problem_seed, len(self.problems) + 1)
            titled = f"{number}. {name}"
            tries = sum(shown["name"].startswith(titled) for shown in self.data["episodes"])
            self.data["episodes"].append(player.follow(one, f"{titled} ({tries + 1})" if tries else titled))

    def add_twin(self, task: str, episodes: Sequence[Known], settings: JsonObject) -> None:
        """Play the problems of some episodes over tokens, with the language model itself.

        Args:
            settings: of the environment, the language model among them.
        """
        seeds, problems = _problems(episodes)
        with closing(make_rows(twin_id(task), ROWS, **settings)) as made:
            rollout = collect(made.episodes, InitialPolicy(), seeds=seeds, problem_seeds=problems)
            played = [known(rollout, number) for number in range(len(rollout))]
            self.add(made.episodes, played, "tokens: the language model itself")

    def add_codebook(self, backbone: object) -> None:
        """Measure the codes, of a backbone that has any."""
        if self.wanted.tokens and isinstance(backbone, LatentBackbone):
            text = self.wanted.text
            source = documents(HELD_OUT) if text is None else read_documents(text)
            named = f"the generated corpus (held-out seed {HELD_OUT})" if text is None else text.name
            found = inspect_codebook(backbone, source, tokens=self.wanted.tokens, named=named)
            self.data["codebook"] = codebook(found)

    def add_tree(self, rows: Episodes, seed: int, problem: int, policy: Any = None) -> None:
        """Search one problem, of which there is an episode already."""
        if self.wanted.simulations:
            config = SearchConfig(simulations=self.wanted.simulations)
            found = MCTS(rows, config, policy=policy).solve([seed], [problem])
            count = int(found.simulations[0])
            title = f"PUCT on problem {self.problems[problem]}: {count} simulations, with the task's rewards"
            self.data["tree"] = tree(found, rows.backbone.tokenizer, title)

    def finished(self, title: str, about: Sequence[tuple[str, object]]) -> JsonObject:
        """The data, with what it is and how it came about."""
        made = provenance()
        told = [*about, ("cola-rl", made["packages"]["cola-rl"]), ("commit", made["commit"])]
        self.data["title"] = shown_line(title)
        self.data["about"] = [[name, shown_line(str(value))] for name, value in told if value is not None]
        self.data["words"] = self.words.texts
        self.data["pairs"] = _pairs(self.data["episodes"])
        return self.data


def _problems(episodes: Sequence[Known]) -> tuple[list[int], list[int]]:
    """Row seeds and problem seeds of the problems, each once."""
    first = {one.problem_seed: one.seed for one in reversed(episodes)}
    problems = sorted(first, key=lambda problem: [one.problem_seed for one in episodes].index(problem))
    return [first[problem] for problem in problems], problems


def _pairs(episodes: Sequence[JsonObject]) -> list[JsonObject]:
    """Episodes of one problem, two at a time: each with the first of them."""
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(episodes):
        groups.setdefault(one["problem_seed"], []).append(number)
    return [{"left": first, "right": other} for first, *others in groups.values() for other in others]
