"""Side effects of RL: what a policy can still do besides the task that it is rewarded for.

RL can cost a language model abilities that its reward does not pay for. The probe measures three of them for
any agent: arithmetic, graded whatever the form of the answer; grammatical English; and the cross-entropy of
held-out text. Its tasks are the same for all agents, also for those that were trained on one of them.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.model.families import decoder_mask
from cola_agents.model.sampling import Drawing
from cola_agents.rl.actors import LatentActor
from cola_agents.rl.agent import Agent
from cola_agents.rl.collecting import collect
from cola_agents.rl.playing import carried
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.rows import make_rows
from cola_agents.train.bundled.corpus import HELD_OUT, documents
from cola_agents.train.bundled.english import check_story
from cola_agents.train.data.packing import IGNORED, packed_batches
from cola_envs.build import evaluation_split, spec_of
from cola_envs.fields import TEXT
from cola_envs.task import Turn


class StoryTask:
    """Tell a story after ``Story:``; reward 1.0 if every complete sentence is grammatical, else 0.0."""

    stop: tuple[str, ...] = ()

    def reset(self, rng: np.random.Generator) -> str:
        return "Story:"

    def step(self, text: str) -> Turn:
        verdicts = check_story(text)
        good = bool(verdicts) and all(verdicts)
        return Turn(reward=float(good), info={"success": good, "sentences": len(verdicts)})


#: The tasks that :func:`probe` plays, and their arguments.
ARITHMETIC: dict[str, Any] = {"level": 1}
STORIES: dict[str, Any] = {"task": StoryTask}


def probed_on() -> dict[str, dict[str, Any]]:
    """By task the arguments that :func:`probe` plays it with, as JSON: figures of others do not compare."""
    return {"Arithmetic": dict(ARITHMETIC), "Text": {"task": STORIES["task"].__name__}}


@dataclass(frozen=True)
class Probe:
    """Figures of :func:`probe`.

    Attributes:
        arithmetic: share of test problems of level 1 solved, actions drawn as the agent draws them: with its
            own options ``temperature``, ``top_k`` and ``top_p``. Agents with other options are not compared
            by it alone.
        arithmetic_greedy: the same with the likeliest action.
        grammar: share of stories, drawn likewise, in which every sentence is grammatical.
        distinct_2: distinct word pairs among all word pairs of those stories; depends on their number.
        cross_entropy: nats per token of held-out documents, of the policy at temperature 1 and without
            truncation, whatever it is played with; at latent level summed over the codes.
        episodes: the number of episodes behind each share, unless ``arithmetic`` was given more.
    """

    arithmetic: float
    arithmetic_greedy: float
    grammar: float
    distinct_2: float
    cross_entropy: float
    episodes: int

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def probe(
    agent: Agent,
    *,
    episodes: int = 256,
    arithmetic_episodes: int | None = None,
    seed: int = 20_000,
    num_batches: int = 4,
) -> Probe:
    """Measure an agent of either level on the bundled corpus' tasks.

    Args:
        episodes: per measure.
        arithmetic_episodes: of ``arithmetic`` alone, where that is to be measured more finely; None for
            ``episodes``.
        seed: of the problems; the same seed gives every agent the same ones.
        num_batches: of held-out documents, 2,048 tokens each; 0 leaves the cross-entropy out (NaN).
    """
    sampled = _played(agent, "Arithmetic", arithmetic_episodes or episodes, seed, **ARITHMETIC)
    greedy = _played(agent, "Arithmetic", episodes, seed, greedy=True, **ARITHMETIC)
    stories = _played(agent, "Text", episodes, seed, **STORIES)
    return Probe(
        arithmetic=sampled.episode_rewards.mean().item(),
        arithmetic_greedy=greedy.episode_rewards.mean().item(),
        grammar=stories.episode_rewards.mean().item(),
        distinct_2=distinct([TEXT.of(info) for info in stories.infos], 2),
        cross_entropy=held_out_cross_entropy(agent, num_batches=num_batches),
        episodes=episodes,
    )


def _played(
    agent: Agent, name: str, episodes: int, seed: int, *, greedy: bool = False, **arguments: Any
) -> Rollout:
    """Episodes of a task with these arguments alone, not with the agent's own of the same task."""
    env_id = f"CoLA-{name}{'' if isinstance(agent.actor, LatentActor) else '-Token'}-v0"
    split = evaluation_split(spec_of(env_id).kwargs["builder"])
    arguments = {**carried(agent.env_kwargs), **arguments, "split": split}
    rows = make_rows(env_id, min(episodes, max(64, agent.num_envs)), model=agent.backbone, **arguments)
    drawing: Drawing = {"temperature": 0.0} if greedy else agent.options.drawing
    with closing(rows):
        return collect(rows.episodes, agent.actor, seeds=range(seed, seed + episodes), **drawing)


def distinct(texts: list[str], n: int) -> float:
    """Distinct n-grams of words among all n-grams of the texts; 0.0 where there are none."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


@torch.no_grad()
def held_out_cross_entropy(agent: Agent, *, num_batches: int = 4) -> float:
    """Nats per token of held-out corpus documents under the agent's policy (and world model)."""
    total, count = 0.0, 0
    actor, backbone = agent.actor, agent.backbone
    assert isinstance(backbone, (LatentBackbone, TokenBackbone)), "a third party's has no text of its own"
    for batch in islice(
        packed_batches(documents(HELD_OUT), agent.backbone.tokenizer, rows=8, length=256), num_batches
    ):
        batch = batch.to(next(backbone.model.parameters()).device)
        where = batch.targets != IGNORED
        targets = batch.targets[where]
        mask = decoder_mask(backbone.base, batch.mask)
        read = backbone.base(batch.ids, attention_mask=mask, position_ids=batch.positions, use_cache=False)
        h = read.last_hidden_state
        features = actor.encode(batch.ids, h, mask=batch.mask, positions=batch.positions)
        if isinstance(backbone, LatentBackbone) and backbone.model.phases is not None:
            log_actions = actor.logits(features).log_softmax(-1)
            composed = backbone.model.compose_spans(h, log_actions, batch.ids, batch.segments)[where]
        else:
            log_actions = actor.logits(features[where]).log_softmax(-1)
            composed = backbone.compose(h[where], log_actions, targets)
        total -= composed.sum().item()
        count += len(targets)
    return total / count if count else float("nan")
