"""Evaluation: play a task with a model, an agent or a search, and report under the data set's true name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cola_agents.common.arguments import environment_arguments, name_of_task
from cola_agents.common.provenance import provenance
from cola_agents.common.threads import fitting_threads
from cola_agents.evaluation.reports import Played, summary
from cola_agents.model.sampling import Drawing
from cola_agents.rl.actors import Actor, TokenActor
from cola_agents.rl.agent import Agent
from cola_agents.rl.collecting import InitialPolicy, Policy, collect
from cola_agents.rl.playing import kwargs_on
from cola_agents.rl.registry import AGENTS
from cola_agents.rl.restoring import check_given_again
from cola_agents.rl.rows import check_rows, make_rows
from cola_agents.rl.saving import read_description, read_saved, saved_path
from cola_agents.search import (
    MCTS,
    MCTSQConfig,
    OutcomeModel,
    QFunction,
    SearchConfig,
    SearchResult,
    likelihood_judge,
)
from cola_agents.search.judges import SAVED as SAVED_OUTCOME
from cola_agents.search.playout import Judge
from cola_agents.search.q import SAVED as SAVED_Q
from cola_agents.search.solver import check_search
from cola_agents.search.trunk import saved_description
from cola_envs.build import evaluation_split, load, repeatable, spec_of
from cola_envs.checks import check_count
from cola_envs.episodes import Episodes
from cola_envs.fields import SPLIT
from cola_envs.jsonl import JsonObject
from cola_envs.order import order_of
from cola_envs.seeds import HIGHEST_SEED
from cola_envs.task import EachRow, Task, TaskBatch

#: Problems of an evaluation by default, and the size up to which a finite set is played whole instead.
DEFAULT_EPISODES, LARGEST_SET = 256, 5_000
#: Episodes whose hidden states are in memory at once.
_CHUNK = 256
#: Difference between the row seeds of two rounds over the problems.
_APART = 1_000_003


def load_agent(path: str | Path, *, algorithm: type[Agent] | None = None, **changed: Any) -> Agent:
    """Load a saved agent, of one of the bundled classes or of your own.

    Args:
        path: its folder.
        algorithm: its class; None for a bundled one. No file names your own: loading runs no code that a
            file chooses.
        changed: as in :meth:`cola_agents.rl.agent.Agent.load`.

    Raises:
        ValueError: for an agent of a class that is not bundled, without ``algorithm``; besides what
            :meth:`cola_agents.rl.agent.Agent.load` raises.
    """
    path = saved_path(path)
    read = read_saved(path)
    name = read.description["agent"]
    if algorithm is None and name not in AGENTS:
        own = "task" in read.description["env_kwargs_not_saved"] and "env_kwargs" not in changed
        needed = ", and its task, env_kwargs=dict(task=...) (--task module:Class)" if own else ""
        raise ValueError(
            f"{path} holds an agent of the class {name}, which is none of {', '.join(AGENTS)}: give its "
            f"class, algorithm={name} (on the command line --algo module:{name})" + needed
        )
    return (algorithm or AGENTS[name]).restored(read, **changed)


@dataclass(frozen=True)
class AgentFolder:
    """A saved agent that is loaded when all arguments of who plays it were checked.

    Args:
        path: its folder.
        algorithm: as in :func:`load_agent`.
        changed: as in :meth:`cola_agents.rl.agent.Agent.load`.
    """

    path: Path
    algorithm: type[Agent] | None = None
    changed: JsonObject = field(default_factory=dict)

    def load(self) -> Agent:
        """Load it; raises as :func:`load_agent`."""
        return load_agent(self.path, algorithm=self.algorithm, **self.changed)

    def kwargs_on(self, env_id: str) -> JsonObject:
        """As the loaded agent's :meth:`~cola_agents.rl.agent.Agent.kwargs_on`, read from its description."""
        saved = read_description(saved_path(self.path))
        check_given_again(self.path, saved, self.changed)
        own = self.changed.get("env_kwargs", saved["env_kwargs"])
        return kwargs_on(env_id, saved["env_id"], own)


def loaded(agent: Agent | AgentFolder) -> Agent:
    """An agent, from its folder if it is not loaded yet."""
    return agent.load() if isinstance(agent, AgentFolder) else agent


def evaluate(
    task: str,
    *,
    model: object = None,
    agent: Agent | AgentFolder | str | Path | None = None,
    tokenizer: object = None,
    episodes: int | None = None,
    samples: int = 1,
    split: str | None = None,
    greedy: bool = False,
    random: bool = False,
    seed: int = 10_000,
    num_envs: int = 64,
    search: SearchConfig | MCTSQConfig | None = None,
    q: QFunction | str | Path | None = None,
    judge: OutcomeModel | str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    **direct: Any,
) -> JsonObject:
    """Play problems, each ``samples`` times, and report shares with their intervals.

    Args:
        task: an environment id.
        model, tokenizer: as in ``gym.make``; ``model`` beside the folder of an agent says where its model is
            now.
        agent: in place of a model, a trained agent or the folder that it was saved to, which is loaded when
            all arguments were checked.
        episodes: how many problems, at most those of a finite set; None for each problem of such a set once,
            or else 256.
        samples: tries at each problem; several give pass@k and, where tasks report answers, maj@k. A task
            that gives other problems at each play (``repeatable`` False) takes one.
        split: one of the task's; None for ``"test"``, or the last one where there is no ``"test"``.
        greedy: take the likeliest action in place of a draw.
        random: take uniformly random actions, in place of the model's own policy: the floor that an agent has
            to beat.
        seed: problem ``i`` is drawn with seed ``seed + i``; of a finite set it is the set's i-th, whatever
            the seed.
        num_envs: the largest number of parallel rows; use fewer for engines that need much memory.
        search: search for each answer, in place of playing once. Its rewards must be ``"estimated"``: the
            task's own rewards would give the solutions away.
        q: the Q-function that estimates them, or its folder.
        judge: what values finished answers instead: ``"policy"`` or ``"base"``, their likelihood under the
            policy or the base LM (:func:`~cola_agents.search.judges.likelihood_judge`), an
            :class:`~cola_agents.search.judges.OutcomeModel`, or its folder.
        device: of a model or of an agent's folder, as in ``gym.make``; None for the agent's own.
        dtype: of a model; an agent keeps its own.
        env_kwargs: further arguments of the environment (``prompt_format``, ``system``, ``shots``, ...).
        direct: arguments of the environment, deprecated: give them in ``env_kwargs``.

    Returns:
        A JSON-ready report (see :func:`cola_agents.evaluation.reports.summary`). ``dataset`` names the
        problems that were played: a substitute set is reported under its own name. After Ctrl-C in a search
        the report covers the problems until then and has ``interrupted``.

    Raises:
        ValueError: for a number below 1, an id that is no CoLA environment, more episodes than a finite set
            has problems, several greedy tries (they are all the same) or several at a task that is not
            repeatable, a search that uses the task's rewards, ``q`` or ``judge`` without a search, or
            ``random`` beside an agent, ``greedy`` or a search.
    """
    if random and (agent is not None or greedy or search is not None):
        raise ValueError(
            "random actions are drawn without a policy: leave out agent= (--agent), greedy and search"
        )
    seed = check_count("seed", seed, 0, HIGHEST_SEED)
    env_kwargs = repeatable(environment_arguments(env_kwargs, direct, "evaluate"))
    for name in ("model", "tokenizer"):
        if name in env_kwargs:
            raise TypeError(
                f"env_kwargs has {name!r}, which is an argument of evaluate itself: give it there"
            )
    given = {"device": env_kwargs.pop("device", device), "dtype": env_kwargs.pop("dtype", dtype)}
    loading = {name: value for name, value in given.items() if value is not None}
    if agent is not None and tokenizer is not None:
        raise ValueError(
            "give tokenizer= (--tokenizer) or agent= (--agent), not both: an agent knows its own"
        )
    if agent is not None and model is not None:
        loading["model"], model = model, None
    if isinstance(agent, (Agent, AgentFolder)) and loading:
        raise ValueError(
            f"this agent is loaded already, and {', '.join(loading)} cannot change it: leave it out, or give "
            "the agent's folder"
        )
    registered = {**spec_of(task).kwargs}
    builder = registered.get("builder")
    if builder is None:
        raise ValueError(f"{task} is not one of the CoLA environments")
    own_split = env_kwargs.pop("split", None)
    if split is not None and own_split not in (None, split):
        raise ValueError(f"split={split!r} and env_kwargs={{'split': {own_split!r}}} differ: give one")
    split = split or own_split or evaluation_split(builder)
    named = Path(agent).name if isinstance(agent, (str, Path)) else None
    if isinstance(agent, (str, Path)):
        agent = AgentFolder(Path(agent), changed=loading)
    if agent is not None:
        env_kwargs = {**_without_split(agent.kwargs_on(task)), **env_kwargs}
    own_task = env_kwargs.get("task")
    env_kwargs = {**_defaults(registered), **env_kwargs}
    drawn = registered["actions"] == "latent" and env_kwargs.get("world_temperature")
    _check(greedy and not drawn, samples, search, greedy, episodes=episodes, num_envs=num_envs)
    _check_values(search, q=q, judge=judge)
    if "sequential" in inspect.signature(load(builder)).parameters:
        env_kwargs.setdefault("sequential", True)
    expected = _num_problems(check_rows(task, **{**env_kwargs, "split": split}), episodes)
    rows = min(num_envs, expected)
    # Whatever can be refused has been: here the weights are loaded.
    playing = None if agent is None else loaded(agent)
    player = _player(model, playing, greedy)
    kwargs = {**({} if agent is not None else loading), **env_kwargs, "split": split}
    envs = make_rows(task, rows, model=player.model, tokenizer=tokenizer, **kwargs)
    try:
        played = envs.episodes
        episodes = _num_problems(played.tasks, episodes)
        _check_repeatable(played.tasks, samples)
        if random:
            player = replace(player, policy=Uniform(played.action_mask), how="uniformly random")
        with fitting_threads(played.backbone):
            made_by = provenance()
            if search is None:
                rounds, how = _tries(played, player, seed, samples, episodes), {"actions": player.how}
            else:
                judged = None if judge is None else _judge(judge, played, player, playing)
                rounds, how = _search(played, player, seed, episodes, search, q, judged)
                if isinstance(judge, (str, Path)):
                    how["judge"] = Path(judge).name
                elif judge is not None:
                    how["judge"] = type(judge).__name__
    finally:
        envs.close()
    return {
        "task": own_task if isinstance(own_task, str) else name_of_task(own_task) or task,
        "split": SPLIT.get(rounds[0][0].info, split) or None,
        **prompt_fields(played, env_kwargs),
        **summary(rounds),
        **how,
        "seed": seed,
        "agent": named or (playing and type(playing).__name__),
        "fingerprint": player.fingerprint or played.backbone.fingerprint,
        **weight_fields(played),
        **made_by,
    }


def prompt_fields(played: Episodes, env_kwargs: JsonObject) -> JsonObject:
    """What the model read around the task's text: format, system text and the number of worked examples."""
    shots = env_kwargs.get("shots", ())
    return {
        "prompt_format": played.format.name,
        "system": env_kwargs.get("system"),
        "shots": shots if isinstance(shots, int) else len(shots),
        "chat_template_kwargs": dict(env_kwargs.get("chat_template_kwargs") or {}),
    }


def weight_fields(played: Episodes) -> JsonObject:
    """Device and number type of the model; empty for a backbone that is not a module of torch."""
    model = getattr(played.backbone, "model", None)
    if not isinstance(model, nn.Module):
        return {}
    weight = next(model.parameters())
    return {"device": str(weight.device), "dtype": str(weight.dtype).removeprefix("torch.")}


def _check(
    alike: bool,
    samples: int,
    search: SearchConfig | MCTSQConfig | None,
    greedy: bool,
    **counts: int | None,
) -> None:
    """Raise ValueError for counts below 1, tries that are all alike, and searches by the task's rewards."""
    for name, value in {**counts, "samples": samples}.items():
        if value is not None:
            check_count(name, value)
    if alike and samples > 1:
        raise ValueError(f"greedy tries are all alike: {samples} of them tell no more than one")
    if search is not None:
        if greedy or samples > 1:
            raise ValueError("a search gives one answer a problem: leave out greedy and samples")
        if search.rewards != "estimated":
            raise ValueError('an evaluation must not see the solutions: give a search rewards="estimated"')


def _check_values(search: SearchConfig | MCTSQConfig | None, *, q: object, judge: object) -> None:
    """Check what values a search: arguments that go together, and folders that hold what they should.

    Raises:
        FileNotFoundError, TypeError, ValueError: for others.
    """
    unread = [name for name, value in (("q", q), ("judge", judge)) if value is not None]
    if search is None and unread:
        raise ValueError(
            f"{' and '.join(f'{name}=' for name in unread)} values what a search finds, and there is no "
            "search: give search=SearchConfig(...) or MCTSQConfig(...) too, or leave it out"
        )
    if search is None:
        return
    check_search(search, q=q, judge=judge)
    if isinstance(q, (str, Path)):
        saved_description(q, *SAVED_Q)
    if isinstance(judge, (str, Path)) and judge not in ("policy", "base"):
        saved_description(judge, *SAVED_OUTCOME)


def _check_repeatable(tasks: TaskBatch, samples: int) -> None:
    """Raise ValueError for several tries at problems that a task cannot give twice."""
    if samples > 1 and not all(getattr(each, "repeatable", True) for each in (tasks, *_row_tasks(tasks))):
        raise ValueError(
            f"samples={samples} are tries at the same problems, and this task is not repeatable: it gives "
            "other ones at each play. Leave samples out, or make the task repeatable"
        )


def _row_tasks(tasks: TaskBatch) -> Sequence[Task]:
    """The task object of each row; empty for a batch that plays all rows itself."""
    return tasks.tasks if isinstance(tasks, EachRow) else ()


@dataclass(frozen=True)
class _Player:
    """A policy over a model, and how its actions are drawn.

    Attributes:
        policy, model: an agent's, or a model and its own policy.
        drawing: sampling arguments of ``collect``.
        how: the same in words.
        fingerprint: an agent's; None for a model.
    """

    policy: Policy
    model: object
    drawing: Drawing
    how: str
    fingerprint: str | None


@dataclass(frozen=True)
class Uniform:
    """The uniform policy over the actions that ``mask`` [A] allows."""

    mask: np.ndarray

    def attach(self, session: object) -> Callable[[Sequence[int]], Tensor]:
        logits = torch.zeros(len(self.mask)).masked_fill(~torch.from_numpy(self.mask), -torch.inf)
        return lambda rows: logits.expand(len(rows), -1)


def _player(model: object, agent: Agent | None, greedy: bool) -> _Player:
    policy: Policy = InitialPolicy()
    drawing: Drawing = {"temperature": 1.0}
    fingerprint = None
    if agent is not None:
        policy, model, drawing = agent.actor, agent.backbone, agent.options.drawing
        fingerprint = agent.fingerprint
    if greedy:
        drawing = {"temperature": 0.0}
    return _Player(policy, model, drawing, _sampled(**drawing), fingerprint)


def _without_split(env_kwargs: JsonObject) -> JsonObject:
    return {name: value for name, value in env_kwargs.items() if name != "split"}


def _defaults(registered: JsonObject) -> JsonObject:
    """The environment arguments that an id was registered with, without those that name the id's task."""
    named = ("builder", "actions", "default_max_tokens", "split", "model", "tokenizer", "device", "dtype")
    return repeatable({name: value for name, value in registered.items() if name not in named})


def _num_problems(tasks: TaskBatch | None, episodes: int | None) -> int:
    """The number of problems to play.

    Args:
        tasks: the tasks, which may be a set in order; None if they are not made yet.
        episodes: the number that was given; None for the whole of a small set, or else 256.

    Raises:
        ValueError: for more than the set has: they would be played again and be counted as new ones.
    """
    order = None if tasks is None else order_of(tasks)
    if order is None:
        return episodes or DEFAULT_EPISODES
    if episodes is None:
        return order.size if order.size <= LARGEST_SET else DEFAULT_EPISODES
    if episodes > order.size:
        raise ValueError(
            f"episodes={episodes} is more than the {order.size} problems of this set, each of which is "
            f"played once: give at most {order.size}, and samples= for several tries at each (on the command "
            "line --episodes and --samples)"
        )
    return episodes


def _problems(played: Episodes, seed: int, episodes: int) -> range:
    first = 0 if order_of(played.tasks) is not None else seed
    return range(first, first + episodes)


def _tries(played: Episodes, player: _Player, seed: int, samples: int, episodes: int) -> list[list[Played]]:
    """Every problem once a round."""
    problems = _problems(played, seed, episodes)
    starts = [seed + j * _APART for j in range(samples)]
    return [
        _play(played, player.policy, range(start, start + episodes), problems, player.drawing)
        for start in starts
    ]


def _search(
    played: Episodes,
    player: _Player,
    seed: int,
    episodes: int,
    config: SearchConfig | MCTSQConfig,
    q: Any,
    judge: Callable[[Episodes], Judge] | None,
) -> tuple[list[list[Played]], JsonObject]:
    """The round of a search, and the fields that it adds to the report."""
    solver = MCTS(played, config, q=q, judge=judge, policy=player.policy, drawing=player.drawing, seed=seed)
    result = _searched(solver, range(seed, seed + episodes), _problems(played, seed, episodes))
    fields = {
        "actions": f"searched, {'MCTS-Q' if isinstance(config, MCTSQConfig) else 'PUCT'}, play-outs "
        + _sampled(**solver.drawing),
        "search": asdict(config),
        "searched_simulations_per_problem": round(float(result.simulations.mean()), 2),
        "searched_tokens_per_problem": round(float(result.new_tokens.mean()), 2),
    }
    if len(result.rows) < episodes:
        fields["interrupted"] = True
    return [_answers(result)], fields


def _judge(
    judge: OutcomeModel | str | Path, played: Episodes, player: _Player, agent: Agent | None
) -> Callable[[Episodes], Judge]:
    """The maker of a judge from its name, its folder or an outcome model.

    Raises:
        ValueError: for the base of a token agent with adapters, which are in that base.
    """
    if isinstance(judge, OutcomeModel):
        return judge.judge
    if judge == "base":
        if agent is None or not isinstance(agent.actor, TokenActor):
            return partial(likelihood_judge, under="base")
        if agent.policy.reference is None:
            raise ValueError("the base of this agent holds its adapters: give judge='policy'")
        return partial(likelihood_judge, under=agent.policy.reference)
    if judge == "policy":
        return partial(
            likelihood_judge, under=player.policy if isinstance(player.policy, Actor) else "policy"
        )
    backbone: Any = played.backbone
    return OutcomeModel.load(judge, backbone).judge


def _sampled(temperature: float, top_k: int | None = None, top_p: float = 1.0) -> str:
    """Sampling arguments in words."""
    if temperature == 0:
        return "greedy"
    how = f"sampled at temperature {temperature:g}"
    how += "" if top_k is None else f", top {top_k}"
    return how if top_p == 1 else f"{how}, top_p {top_p:g}"


def _answers(result: SearchResult) -> list[Played]:
    """The answers of a search as played episodes.

    Raises:
        RuntimeError: for a problem whose search reached no end of its episode.
    """
    done = []
    for answer in result.answers:
        if answer is None:
            raise RuntimeError(
                "a search ended without any finished answer; give it more simulations, leaves that are "
                'played on, and answer="value" or "vote"'
            )
        done.append(Played(answer.info, answer.reward))
    return done


def _searched(solver: MCTS, seeds: Sequence[int], problems: Sequence[int]) -> SearchResult:
    """Search all problems; after Ctrl-C, the result of the batches that were finished.

    An unfinished batch is dropped: its finished answers are mostly the short ones.

    Raises:
        KeyboardInterrupt: if it was stopped in the first batch.
    """
    results: list[SearchResult] = []
    size = solver.episodes.num_rows
    try:
        for at in range(0, len(seeds), size):
            result = solver.solve(seeds[at : at + size], problems[at : at + size])
            if result.interrupted:
                raise KeyboardInterrupt
            results.append(result)
    except KeyboardInterrupt:
        if not results:
            raise
    return SearchResult.joined(results)


def _play(
    episodes: Episodes, policy: Policy, seeds: Sequence[int], problems: Sequence[int], drawing: Drawing
) -> list[Played]:
    """Play one episode for each seed and problem seed; hidden states are not kept."""
    done = []
    for at in range(0, len(seeds), _CHUNK):
        part = slice(at, at + _CHUNK)
        rollout = collect(episodes, policy, seeds=seeds[part], problem_seeds=problems[part], **drawing)
        rewards = rollout.episode_rewards.tolist()
        done += [Played(info, reward) for info, reward in zip(rollout.infos, rewards, strict=True)]
    return done
