"""The tasks, the models (arms) and the Q-functions of the search benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cola_agents.common.files import write_json
from cola_agents.decoding.loading import make_backbone
from cola_agents.rl.generate import generate, read
from cola_agents.rl.rows import make_rows
from cola_agents.search.fitting import split_problems
from cola_agents.search.playout import Values
from cola_agents.search.q import QConfig, QFunction, train_q
from cola_envs import jsonl
from cola_envs.episodes import Episodes

#: name -> environment and its arguments. The first is where greedy play of the codes mostly fails.
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "arithmetic-2": ("Arithmetic", {"level": 2}),
    "countdown-1": ("Countdown", {"difficulty": 1}),
    "arithmetic-1": ("Arithmetic", {"level": 1}),
    "arithmetic-3": ("Arithmetic", {"level": 3}),
}
#: The bundled codes, and the tokens of the base that they stand on.
ARMS = ("latent", "token")
#: As many actions as there are codes: a search over tokens takes the likeliest of them.
WIDTH = 64
#: The logit and value of an action outside the width: finite, since later code does not expect infinities.
_NEVER = -1e4


@dataclass(frozen=True)
class Recipe:
    """The training of a Q-function, the same for every arm.

    Attributes:
        problems: number of problems of the train split.
        n: answers to each.
        steps: of :func:`cola_agents.search.q.train_q`; the final weights are those of the step that orders
            the answers to held-out problems best.
        held_out: number of held-out problems; 0 for none, and the weights of the last step.
    """

    problems: int = 512
    n: int = 16
    steps: int = 300
    held_out: int = 64


def backbone_of(arm: str) -> Any:
    """The model of an arm."""
    return make_backbone(level="latent" if arm == "latent" else "token")


def make_episodes(task: str, arm: str, backbone: Any, num_rows: int, split: str) -> Episodes:
    """Rows of a task's problems."""
    _, kwargs = TASKS[task]
    return make_rows(env_id(task, arm), num_rows, model=backbone, split=split, **kwargs).episodes


def env_id(task: str, arm: str) -> str:
    """The environment id of a task at an arm's level."""
    return f"CoLA-{TASKS[task][0]}{'' if arm == 'latent' else '-Token'}-v0"


@dataclass(frozen=True)
class Judge:
    """An arm's Q-function.

    Attributes:
        q: the function.
        length: mean number of tokens of a recorded answer.
        looks: by step, how well it ordered the answers to held-out problems; the weights are those of the
            best step.
        commits: of the code that began the recording, and that trained; None where it is unknown.
    """

    q: QFunction
    length: float
    looks: dict[str, float]
    commits: tuple[str | None, str | None]


def q_function(
    task: str,
    arm: str,
    backbone: Any,
    recipe: Recipe,
    folder: Path,
    commit: str | None,
    say: Callable[[str], None],
) -> Judge:
    """The arm's Q-function, kept in ``folder`` with the recording that it learned from.

    A recording that breaks off is gone on with, and a Q-function that is there is read. ``commit`` is kept
    with what is trained now.
    """
    data = folder / "episodes.jsonl"
    say(f"{task}, {arm}: recording")
    generate(
        env_id(task, arm),
        data,
        problems=recipe.problems,
        n=recipe.n,
        env_kwargs={"split": "train", "model": backbone, **TASKS[task][1]},
    )
    recorded = read(data)
    length = float(np.mean([len(episode["actions"]) for episode in recorded.episodes]))
    if not (folder / "q").exists():
        say(f"{task}, {arm}: training Q")
        q = QFunction.over(backbone)
        rollout, held_out = recorded.rollout(backbone), None
        if recipe.held_out:
            rollout, held_out = split_problems(rollout, recipe.held_out)
        records = train_q(q, rollout, QConfig(steps=recipe.steps), held_out=held_out)
        settings = {
            "commit": commit,
            "loss": [round(r["loss"], 5) for r in records],
            "held_out": {r["step"]: round(r["held_out"], 4) for r in records if "held_out" in r},
        }
        write_json(folder / "q_loss.json", settings)
        q.save(folder / "q")
    trained = jsonl.read_object(folder / "q_loss.json", "commit", "held_out")
    commits = (recorded.about["provenance"]["commit"], trained["commit"])
    return Judge(QFunction.load(folder / "q", backbone), length, trained["held_out"], commits)


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
