"""Collect a page's data from a model, a run or a recording."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from cola_agents.common.arguments import check_not_making, environment_arguments
from cola_agents.common.threads import fitting_threads
from cola_agents.evaluation.look.book import curves, samples
from cola_agents.evaluation.look.filling import ROWS, Filling, Wanted
from cola_agents.evaluation.look.follow import Known, known
from cola_agents.evaluation.run import load_agent
from cola_agents.rl.agent import Agent
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_agents.rl.generate import policy_name, read
from cola_agents.rl.rows import check_rows, make_rows
from cola_agents.rl.saving import holds_agent, read_description, saved_path
from cola_envs.checks import check_count
from cola_envs.jsonl import JsonObject

#: The task where none is named.
TASK = "CoLA-Thinking-v0"


def look(
    what: str | Path | None,
    wanted: Wanted,
    *,
    task: str | None = None,
    own_task: str | None = None,
    agent: Path | None = None,
    algorithm: type[Agent] | None = None,
    seed: int | None = None,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    env_kwargs: JsonObject | None = None,
    **direct: Any,
) -> JsonObject:
    """Collect a page's data.

    Args:
        what: a recording (a file), a run or saved agent (its folder), or a model (folder or hub id); None for
            the bundled model.
        wanted: the sizes of the page's parts.
        task: of a model's episodes; None for :data:`TASK`.
        own_task: ``module:Class`` of a task of one's own, for ``CoLA-Text-v0``; also of a run or a recording,
            whose files do not hold it.
        agent: the saved agent that a recording was made by.
        algorithm: the class of that agent, or of the run's, where it is not a bundled one.
        seed: of a model's first problem; None for 0.
        model: the model of a recording or a run, where that does not name it.
        device, dtype: of a loaded model.
        env_kwargs: further arguments of the environment.
        direct: arguments of the environment, deprecated: give them in ``env_kwargs``.

    Raises:
        FileNotFoundError: where ``what`` is not there.
        ValueError: for arguments that do not apply to ``what``; for a recording of another model, or whose
            replay differs.
    """
    env_kwargs = environment_arguments(env_kwargs, direct, "look")
    for name in env_kwargs:
        if name in _OWN:
            raise ValueError(f"--env {name}=... has an option of its own: give --{name}")
        check_not_making(name)
    if seed is not None:
        check_count("seed", seed, 0)
    path = None if what is None else Path(what)
    loaded = {name: value for name, value in (("device", device), ("dtype", dtype)) if value is not None}
    own = {} if own_task is None else {"task": own_task}
    if path is not None and (path.is_file() or path.name.endswith((".jsonl", ".jsonl.gz"))):
        _refuse("a recording", task=None if own else task, seed=seed)
        if agent is None:
            _refuse("a recording without --agent", algo=algorithm)
        named = {} if model is None else {"model": model}
        return _recording(path, wanted, agent, algorithm, {**named, **loaded, **own, **env_kwargs})
    _refuse("what is no recording", agent=agent)
    if path is not None and saved_path(path).is_dir() and holds_agent(saved_path(path)):
        _refuse("a run", task=None if own else task, seed=seed, **env_kwargs)
        changed: JsonObject = {} if model is None else {"model": model}
        if own:
            saved = read_description(saved_path(path))["env_kwargs"]
            changed["env_kwargs"] = {**saved, **own}
        return _run(saved_path(path), wanted, load_agent(path, algorithm=algorithm, **changed, **loaded))
    _refuse("a model", model=model, algo=algorithm)
    if what == "cola" and not Path(what).exists():
        raise ValueError("there is no folder 'cola' here: leave it out for the bundled model, `cola look`")
    return _model(what, wanted, task or TASK, seed or 0, {**loaded, **own, **env_kwargs})


#: Arguments of :func:`look`, and those that are options of their own on the command line; the others are
#: given by ``--env``.
_OWN = ("agent", "model", "seed")
_OPTIONS = (*_OWN, "task", "algo", "system", "shots", "prompt_format")


def _refuse(what: str, **given: object) -> None:
    """Raise ValueError for arguments that do not apply."""
    named = [
        f"--{name.replace('_', '-')}" if name in _OPTIONS else f"--env {name}=..."
        for name, value in given.items()
        if value is not None
    ]
    if named:
        raise ValueError(f"{', '.join(named)} means nothing to {what}: leave it out")


def _model(what: str | Path | None, wanted: Wanted, task: str, seed: int, kwargs: JsonObject) -> JsonObject:
    """Episodes of a model's own policy at a task."""
    made_with = {"model": what, **kwargs}
    page = Filling(wanted)
    with closing(make_rows(task, ROWS, **made_with)) as made:
        rows = made.episodes
        backbone: Any = rows.backbone
        with fitting_threads(backbone.model):
            seeds = range(seed, seed + wanted.episodes)
            rollout = collect(rows, InitialPolicy(), seeds=seeds, problem_seeds=seeds)
            latent = backbone.level == "latent"
            name = "codes: the model's own policy" if latent else "the language model itself"
            episodes = [known(rollout, number) for number in range(len(rollout))]
            page.add(rows, episodes, name)
            page.add_tree(rows, seed, seed)
            page.add_codebook(backbone)
            if latent:
                page.add_twin(task, episodes, made_with)
    named = "the bundled model" if what is None else Path(what).name
    return page.finished(f"{named} at {task}", [("model", named), ("fingerprint", backbone.fingerprint[:12])])


def _run(path: Path, wanted: Wanted, agent: Agent) -> JsonObject:
    """A saved agent, its training, and the episodes that its next update would learn from."""
    page = Filling(wanted)
    texts = samples(path / "logs")
    backbone: Any = agent.backbone
    with closing(agent), closing(make_rows(agent.env_id, ROWS, model=backbone, **agent.env_kwargs)) as made:
        rows = made.episodes
        with fitting_threads(backbone.model):
            batch = agent.batch()
            chosen = _varied(batch.rollout.episode_rewards.tolist(), wanted.episodes)
            episodes = [known(batch.rollout, number, batch) for number in chosen]
            latent = backbone.level == "latent"
            name = f"{'codes' if latent else 'tokens'}: the trained agent"
            # Over tokens the model itself was trained, and its policy before training is gone.
            playing = {"policy": agent.actor, "drawing": agent.options.drawing, "prior": latent}
            page.add(rows, episodes, name, **playing)
            drawing = agent.options.drawing
            page.add_tree(rows, episodes[0].seed, episodes[0].problem_seed, agent.actor, drawing)
            page.add_codebook(backbone)
            if latent:
                page.add_twin(agent.env_id, episodes, {**agent.source, **agent.env_kwargs})
    algorithm = type(agent).__name__
    page.data["run"] = {
        "title": f"{algorithm} on {agent.env_id}, {agent.num_updates} updates",
        "curves": curves(agent.history),
        "samples": texts,
    }
    about = [
        ("algorithm", algorithm),
        ("timesteps", f"{agent.num_timesteps:,}"),
        ("seed", agent.seed),
        ("fingerprint", agent.fingerprint[:12]),
        ("episodes", "of the batch that its next update would learn from, with its own advantages"),
    ]
    return page.finished(f"{path.name}: {algorithm} on {agent.env_id}", about)


def _recording(
    path: Path, wanted: Wanted, agent: Path | None, algorithm: type[Agent] | None, given: JsonObject
) -> JsonObject:
    """Replayed episodes of `cola generate`, with their recorded numbers."""
    recorded = read(path)
    about = recorded.about
    kwargs = {**about["env_kwargs"], **given}
    if about.get("own_task") and "task" not in kwargs:
        raise ValueError(
            f"{path.name} was recorded with the task {about['own_task']}, and no code is run because a file "
            "names it: give it as --task module:Class"
        )
    actor = None
    if agent is not None:
        loading = {name: kwargs.pop(name) for name in ("device", "dtype") if name in given}
        check_rows(about["task"], **kwargs)
        acted = load_agent(agent, algorithm=algorithm, **loading)
        kwargs["model"], actor = acted.backbone, acted.actor
    is_actor = about["policy"] == policy_name(actor)
    if agent is not None and not is_actor:
        raise ValueError(f"{path.name} was not recorded with the agent in {agent}: its policy was another")
    page = Filling(wanted)
    with closing(make_rows(about["task"], ROWS, **kwargs)) as made:
        rows = made.episodes
        backbone: Any = rows.backbone
        recorded.check_model(backbone)
        latent = backbone.level == "latent"
        with fitting_threads(backbone.model):
            chosen = _varied([sum(one["rewards"]) for one in recorded.episodes], wanted.episodes)
            names = ("seed", "problem_seed", "ids", "actions", "log_probs", "rewards")
            played = [recorded.episodes[number] for number in chosen]
            episodes = [Known(**{name: one[name] for name in names}) for one in played]
            drawing = {name: about[name] for name in ("temperature", "top_k", "top_p") if name in about}
            prior = latent or actor is None
            title = f"{'codes' if latent else 'tokens'}: as recorded"
            page.add(rows, episodes, title, policy=actor, drawing=drawing, is_actor=is_actor, prior=prior)
            page.add_tree(rows, episodes[0].seed, episodes[0].problem_seed, actor, drawing)  # type: ignore[arg-type]
            page.add_codebook(backbone)
            if latent:
                source = {} if agent is None else acted.source
                page.add_twin(about["task"], episodes, {**kwargs, **source})
    facts = [
        ("recording", path.name),
        ("policy", about["policy"]),
        ("temperature", about["temperature"]),
        ("episodes", f"{len(chosen)} of {len(recorded.episodes)}"),
        ("fingerprint", about["fingerprint"][:12]),
    ]
    return page.finished(f"{path.name}: {about['task']}", facts)


def _varied(rewards: Sequence[float], count: int) -> list[int]:
    """Episodes to show: the first of each reward, the second of each, and so on, in their own order."""
    seen: dict[float, int] = {}
    rank = []
    for reward in rewards:
        seen[reward] = seen.get(reward, 0) + 1
        rank.append(seen[reward])
    return sorted(sorted(range(len(rewards)), key=lambda number: (rank[number], number))[:count])
