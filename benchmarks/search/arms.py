"""The tasks, the models (arms) and the judges of the search benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from cola_agents import GRPO
from cola_agents.common.files import write_json
from cola_agents.decoding.loading import make_backbone
from cola_agents.rl.actors import Actor
from cola_agents.rl.generate import generate, read
from cola_agents.rl.rows import make_rows
from cola_agents.search.fitting import split_problems
from cola_agents.search.judges import OutcomeModel, likelihood_judge, train_outcome
from cola_agents.search.playout import Judge, Values
from cola_agents.search.q import QFunction, train_q
from cola_agents.train.options import FitConfig, QConfig
from cola_envs import jsonl
from cola_envs.episodes import Episodes

#: name -> environment and its arguments. The first is where greedy play of the codes mostly fails.
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "arithmetic-2": ("Arithmetic", {"level": 2}),
    "countdown-1": ("Countdown", {"difficulty": 1}),
    "arithmetic-1": ("Arithmetic", {"level": 1}),
    "arithmetic-3": ("Arithmetic", {"level": 3}),
}
#: The bundled codes and the tokens of the base that they stand on, before and after RL.
ARMS = ("latent", "token", "latent-rl", "token-rl")
#: Options of GRPO for the arms after RL, by level.
RL: dict[str, dict[str, Any]] = {
    "latent": {"lr": 1e-3, "kl_coef": 0.1},
    "token": {"lr": 1e-4, "kl_coef": 0.1},
}
#: As many actions as there are codes: a search over tokens takes the likeliest of them.
WIDTH = 64
#: The logit and value of an action outside the width: finite, since later code does not expect infinities.
_NEVER = -1e4


@dataclass(frozen=True)
class Recipe:
    """The training of the judges of an arm and of its policy, the same for every arm.

    Attributes:
        problems: number of problems of the train split.
        n: answers to each.
        steps: of :func:`cola_agents.search.q.train_q` and :func:`cola_agents.search.train_outcome`; the final
            weights are those of the step that orders the answers to held-out problems best.
        held_out: number of held-out problems; 0 for none, and the weights of the last step.
        updates: of GRPO, 128 rollouts each, for the arms after RL.
    """

    problems: int = 512
    n: int = 16
    steps: int = 300
    held_out: int = 64
    updates: int = 30


@dataclass(frozen=True)
class Player:
    """The model of an arm, and its policy.

    Attributes:
        backbone: the model.
        actor: the trained policy; None for the model's own.
    """

    backbone: Any
    actor: Actor | None


def level_of(arm: str) -> Literal["latent", "token"]:
    return "latent" if arm.startswith("latent") else "token"


def player_of(task: str, arm: str, recipe: Recipe, folder: Path, say: Callable[[str], None]) -> Player:
    """The model of an arm, whose agent after RL is kept in ``folder``."""
    if not arm.endswith("-rl"):
        return Player(make_backbone(level=level_of(arm)), None)
    saved = folder / "agent"
    if not saved.exists():
        say(f"{task}, {arm}: training by RL")
        _, kwargs = TASKS[task]
        options = {"prompts": 16, "group_size": 8, **RL[level_of(arm)]}
        agent = GRPO(env_id(task, arm), num_envs=128, seed=0, env_kwargs=dict(kwargs), **options)
        for _ in range(recipe.updates):
            agent.update()
        agent.save(saved)
        agent.close()
    agent = GRPO.load(saved)
    agent.episodes.close()
    return Player(agent.backbone, agent.actor)


def make_episodes(task: str, arm: str, backbone: Any, num_rows: int, split: str) -> Episodes:
    """Rows of a task's problems."""
    _, kwargs = TASKS[task]
    return make_rows(env_id(task, arm), num_rows, model=backbone, split=split, **kwargs).episodes


def env_id(task: str, arm: str) -> str:
    """The environment id of a task at an arm's level."""
    return f"CoLA-{TASKS[task][0]}{'' if level_of(arm) == 'latent' else '-Token'}-v0"


@dataclass(frozen=True)
class Learned:
    """An arm's Q-function and outcome model.

    Attributes:
        q, outcome: the models.
        length: mean number of tokens of a recorded answer.
        looks: by model and step, how well it ordered the answers to held-out problems; the weights are those
            of the best step.
        commits: of the code that began the recording, and that trained; None where it is unknown.
    """

    q: QFunction
    outcome: OutcomeModel
    length: float
    looks: dict[str, dict[str, float]]
    commits: tuple[str | None, ...]


def learned(
    task: str,
    arm: str,
    player: Player,
    recipe: Recipe,
    folder: Path,
    commit: str | None,
    say: Callable[[str], None],
) -> Learned:
    """The arm's Q-function and outcome model, kept in ``folder`` with the recording that they learned from.

    A recording that breaks off is gone on with, and a model that is there is read. ``commit`` is kept with
    what is trained now.
    """
    backbone, data = player.backbone, folder / "episodes.jsonl"
    say(f"{task}, {arm}: recording")
    generate(
        env_id(task, arm),
        data,
        policy=player.actor,
        problems=recipe.problems,
        n=recipe.n,
        env_kwargs={"split": "train", "model": backbone, **TASKS[task][1]},
    )
    recorded = read(data)
    length = float(np.mean([len(episode["actions"]) for episode in recorded.episodes]))
    rollout, held_out = recorded.rollout(backbone), None
    if recipe.held_out:
        rollout, held_out = split_problems(rollout, recipe.held_out)
    looks, commits = {}, [recorded.about["provenance"]["commit"]]
    for name in ("q", "outcome"):
        if not (folder / name).exists():
            say(f"{task}, {arm}: training {name}")
            if name == "q":
                q = QFunction.over(backbone)
                records = train_q(q, rollout, QConfig(steps=recipe.steps), held_out=held_out)
                q.save(folder / name)
            else:
                outcome = OutcomeModel.over(backbone)
                records = train_outcome(outcome, rollout, FitConfig(steps=recipe.steps), held_out=held_out)
                outcome.save(folder / name)
            settings = {
                "commit": commit,
                "loss": [round(r["loss"], 5) for r in records],
                "held_out": {r["step"]: round(r["held_out"], 4) for r in records if "held_out" in r},
            }
            write_json(folder / f"{name}_loss.json", settings)
        trained = jsonl.read_object(folder / f"{name}_loss.json", "commit", "held_out")
        looks[name] = trained["held_out"]
        commits.append(trained["commit"])
    return Learned(
        QFunction.load(folder / "q", backbone),
        OutcomeModel.load(folder / "outcome", backbone),
        length,
        looks,
        tuple(commits),
    )


def judges_of(arm: str, player: Player, models: Learned, episodes: Episodes) -> dict[str, Judge]:
    """The judges of an arm besides Q, by name.

    Over tokens the base's likelihood is the policy's before RL, so there is no judge by it.
    """
    judges = {
        "policy": likelihood_judge(episodes, "policy" if player.actor is None else player.actor),
        "outcome": models.outcome.judge(episodes),
    }
    if level_of(arm) == "latent":
        judges["base"] = likelihood_judge(episodes, "base")
    return judges


def narrowed(policy: Values, q: Values, width: int) -> tuple[Values, Values]:
    """A policy and a Q-function restricted to the ``width`` likeliest actions of each state."""

    def outside(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        logits = policy(rows)
        return logits, logits < logits.topk(min(width, logits.shape[-1]), dim=-1).values[:, -1:]

    def logits(rows: Sequence[int]) -> Tensor:
        inside, others = outside(rows)
        return inside.masked_fill(others, _NEVER)

    def values(rows: Sequence[int]) -> Tensor:
        _, others = outside(rows)
        return q(rows)[:, : others.shape[1]].masked_fill(others, _NEVER)

    return logits, values
