"""A page's data from a model, a run or a recording."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

from cola_agents.common.provenance import provenance
from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.evaluation.inspection import inspect_codebook, read_documents
from cola_agents.evaluation.look.book import codebook, curves, samples, tree
from cola_agents.evaluation.look.follow import Known, Player, known
from cola_agents.evaluation.run import load_agent
from cola_agents.rl.agent import Agent
from cola_agents.rl.generate import Recorded, policy_name, read
from cola_agents.rl.rollout import InitialPolicy, collect
from cola_agents.rl.rows import make_rows
from cola_agents.rl.saving import holds_agent, saved_path
from cola_agents.search import MCTS, SearchConfig
from cola_agents.train.bundled.corpus import HELD_OUT, documents
from cola_envs.build import twin_id
from cola_envs.episodes import Episodes
from cola_envs.jsonl import JsonObject
from cola_envs.page.log import Words
from cola_envs.shown import shown_line

#: The task where none is named, and rows in which futures are played side by side.
TASK, ROWS = "CoLA-Thinking-v0", 32


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
class _Page:
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
            self.data["episodes"].append(player.follow(one, f"{number}. {name}"))

    def add_twin(self, task: str, seeds: Sequence[int], problems: Sequence[int], **kwargs: Any) -> None:
        """Play the same problems over tokens, with the language model itself."""
        twin = twin_id(task)
        with closing(make_rows(twin, ROWS, **kwargs)) as made:
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
        """Search one problem."""
        if self.wanted.simulations:
            found = MCTS(rows, SearchConfig(simulations=self.wanted.simulations), policy=policy).solve(
                [seed], [problem]
            )
            title = f"PUCT on problem {problem}: {int(found.simulations[0])} simulations, with the task's rewards"
            self.data["tree"] = tree(found, rows.backbone.tokenizer, title)

    def finished(self, title: str, about: Sequence[tuple[str, object]]) -> JsonObject:
        """The data, with what it is and how it came about."""
        made = provenance()
        told = [*about, ("cola-rl", made["packages"]["cola-rl"]), ("commit", made["commit"])]
        self.data["title"] = title
        self.data["about"] = [[name, shown_line(str(value))] for name, value in told if value is not None]
        self.data["words"] = self.words.texts
        self.data["pairs"] = _pairs(self.data["episodes"])
        return self.data


def look(
    what: str | Path | None,
    wanted: Wanted,
    *,
    task: str | None = None,
    agent: Path | None = None,
    seed: int = 0,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    **env_kwargs: Any,
) -> JsonObject:
    """Collect a page's data.

    Args:
        what: a recording (a file), a run or saved agent (its folder), or a model (folder or hub id); None for
            the bundled model.
        wanted: what the page is to hold.
        task: of a model's episodes; None for :data:`TASK`.
        agent: the saved agent that a recording was made by.
        seed: of a model's first problem.
        model: that a recording or a run was made with, where it does not say so itself.
        device, dtype: where and in which type a model is loaded.
        env_kwargs: further arguments of the environment.

    Raises:
        FileNotFoundError: where there is nothing of the kind.
        ValueError: for arguments that mean nothing to what is looked at; a recording of another model, or
            whose episodes are not played the same here.
    """
    path = None if what is None else Path(what)
    loaded = {name: value for name, value in (("device", device), ("dtype", dtype)) if value is not None}
    if path is not None and (path.is_file() or path.name.endswith((".jsonl", ".jsonl.gz"))):
        _mean_nothing("a recording", task=task)
        named = {} if model is None else {"model": model}
        return _recording(path, wanted, agent, {**named, **loaded, **env_kwargs})
    _mean_nothing("what is no recording", agent=agent)
    if path is not None and saved_path(path).is_dir() and holds_agent(saved_path(path)):
        _mean_nothing("a run", task=task, **env_kwargs)
        changed = {} if model is None else {"model": model}
        return _run(saved_path(path), wanted, load_agent(path, **changed, **loaded))
    _mean_nothing("a model", model=model)
    return _model(what, wanted, task or TASK, seed, {**loaded, **env_kwargs})


def _mean_nothing(what: str, **given: object) -> None:
    named = [f"--{name}" for name, value in given.items() if value is not None]
    if named:
        raise ValueError(f"{', '.join(named)} means nothing to {what}: leave it out")


def _model(what: str | Path | None, wanted: Wanted, task: str, seed: int, kwargs: JsonObject) -> JsonObject:
    """A model's own policy at a task."""
    made_with = {"model": what, **kwargs}
    page = _Page(wanted)
    with closing(make_rows(task, ROWS, **made_with)) as made:
        rows = made.episodes
        backbone: Any = rows.backbone
        with fitting_threads(backbone.model):
            seeds = range(seed, seed + wanted.episodes)
            rollout = collect(rows, InitialPolicy(), seeds=seeds, problem_seeds=seeds)
            latent = backbone.level == "latent"
            name = "codes: the model's own policy" if latent else "the language model itself"
            page.add(rows, [known(rollout, number) for number in range(len(rollout))], name)
            page.add_tree(rows, seed, seed)
            page.add_codebook(backbone)
            if latent:
                page.add_twin(task, seeds, seeds, **made_with)
    named = "the bundled model" if what is None else Path(what).name
    return page.finished(f"{named} at {task}", [("model", named), ("fingerprint", backbone.fingerprint[:12])])


def _run(path: Path, wanted: Wanted, agent: Agent) -> JsonObject:
    """A saved agent, its training, and the episodes that its next update would learn from."""
    page = _Page(wanted)
    backbone: Any = agent.backbone
    with closing(agent), closing(make_rows(agent.env_id, ROWS, model=backbone, **agent.env_kwargs)) as made:
        rows = made.episodes
        with fitting_threads(backbone.model):
            batch = agent.batch()
            chosen = _varied(batch.rollout.episode_rewards.tolist(), wanted.episodes)
            episodes = [known(batch.rollout, number, batch) for number in chosen]
            latent = backbone.level == "latent"
            name = f"{'codes' if latent else 'tokens'}: the trained agent"
            # Over tokens the model itself was trained: nothing is left of the policy before.
            playing = {"policy": agent.actor, "drawing": agent.options.drawing, "prior": latent}
            page.add(rows, episodes, name, **playing)
            page.add_tree(rows, episodes[0].seed, episodes[0].problem_seed, agent.actor)
            page.add_codebook(backbone)
            if latent:
                page.add_twin(agent.env_id, *_problems(episodes), **agent.source, **agent.env_kwargs)
    algorithm = type(agent).__name__
    page.data["run"] = {
        "title": f"{algorithm} on {agent.env_id}, {agent.num_updates} updates",
        "curves": curves(agent.history),
        "samples": samples(path / "logs"),
    }
    about = [
        ("algorithm", algorithm),
        ("timesteps", f"{agent.num_timesteps:,}"),
        ("seed", agent.seed),
        ("fingerprint", agent.fingerprint[:12]),
        ("episodes", "of the batch that its next update would learn from, with its own advantages"),
    ]
    return page.finished(f"{path.name}: {algorithm} on {agent.env_id}", about)


def _recording(path: Path, wanted: Wanted, agent: Path | None, given: JsonObject) -> JsonObject:
    """Episodes that `cola generate` recorded, played again beside their recorded numbers."""
    recorded = read(path)
    about = recorded.about
    kwargs = {**about["env_kwargs"], **given}
    actor = None
    if agent is not None:
        acted = load_agent(agent)
        kwargs["model"], actor = acted.backbone, acted.actor
    is_actor = about["policy"] == policy_name(actor)
    if agent is not None and not is_actor:
        raise ValueError(f"{path.name} was not recorded with the agent in {agent}: its policy is another")
    page = _Page(wanted)
    with closing(make_rows(about["task"], ROWS, **kwargs)) as made:
        rows = made.episodes
        backbone: Any = rows.backbone
        recorded.check_model(backbone)
        latent = backbone.level == "latent"
        with fitting_threads(backbone.model):
            chosen = _varied([sum(one["rewards"]) for one in recorded.episodes], wanted.episodes)
            episodes = [_recorded(recorded, number) for number in chosen]
            drawing = {"temperature": about["temperature"]}
            prior = latent or actor is None
            name = f"{'codes' if latent else 'tokens'}: as recorded"
            page.add(
                rows, episodes, name, policy=actor, drawing=drawing, is_actor=is_actor, prior=prior
            )
            page.add_tree(rows, episodes[0].seed, episodes[0].problem_seed, actor)
            page.add_codebook(backbone)
            if latent:
                source = {} if agent is None else acted.source
                page.add_twin(about["task"], *_problems(episodes), **{**kwargs, **source})
    told = [
        ("recording", path.name),
        ("policy", about["policy"]),
        ("temperature", about["temperature"]),
        ("episodes", f"{len(chosen)} of {len(recorded.episodes)}"),
        ("fingerprint", about["fingerprint"][:12]),
    ]
    return page.finished(f"{path.name}: {about['task']}", told)


def _recorded(recorded: Recorded, number: int) -> Known:
    one = recorded.episodes[number]
    names = ("seed", "problem_seed", "ids", "actions", "log_probs", "rewards")
    return Known(**{name: one[name] for name in names})


def _problems(episodes: Sequence[Known]) -> tuple[list[int], list[int]]:
    """Row seeds and problem seeds of the problems, each once."""
    first = {one.problem_seed: one.seed for one in reversed(episodes)}
    problems = sorted(first, key=lambda problem: [one.problem_seed for one in episodes].index(problem))
    return [first[problem] for problem in problems], problems


def _varied(rewards: Sequence[float], count: int) -> list[int]:
    """Episodes to show: the first of each reward, the second of each, and so on, in their own order."""
    seen: dict[float, int] = {}
    rank = []
    for reward in rewards:
        seen[reward] = seen.get(reward, 0) + 1
        rank.append(seen[reward])
    return sorted(sorted(range(len(rewards)), key=lambda number: (rank[number], number))[:count])


def _pairs(episodes: Sequence[JsonObject]) -> list[JsonObject]:
    """Episodes of one problem, two at a time: each with the first of them."""
    groups: dict[int, list[int]] = {}
    for number, one in enumerate(episodes):
        groups.setdefault(one["problem_seed"], []).append(number)
    return [
        {"problem": problem, "left": first, "right": other}
        for problem, (first, *others) in groups.items()
        for other in others
    ]
