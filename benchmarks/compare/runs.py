"""One run of a comparison: RL of an arm on a pre-trained model, with its figures before and after."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from benchmarks.compare.arms import ARMS, Arm
from benchmarks.compare.pushforward import code_groups, pushed, sampled_world_kl
from benchmarks.compare.rank import RankBackbone
from benchmarks.compare.records import PARTS
from benchmarks.peak_memory import PeakMemory
from cola_agents.common.provenance import provenance
from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.evaluation.demo import FixedCodes, best_constant_code, constant_codes
from cola_agents.evaluation.probe import probe, probed_on
from cola_agents.evaluation.scores import pass_at_k
from cola_agents.rl.collecting import collect
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.losses import categorical_kl
from cola_agents.rl.playing import carried
from cola_agents.rl.policy import evaluate_actions
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.rows import make_rows
from cola_envs.build import evaluation_split, splits_of

#: Of an evaluation: the seed of its problems, far from those that RL draws.
TEST_SEED = 10_000
#: k of pass@k, and as many tries at each problem as the largest.
TRIES = (1, 4, 16, 64)


@dataclass(frozen=True)
class Protocol:
    """The settings that all runs of a comparison share.

    Attributes:
        task: name of the environments, as in ``CoLA-<task>-v0``.
        env_kwargs: of the environments of every arm.
        updates, prompts, group_size: of GRPO; ``prompts * group_size`` rollouts an update.
        warmup: of every arm's learning rate, in gradient steps; GRPO makes one an update.
        micro_batch: episodes that a gradient step differentiates at once, for arms whose memory grows with
            all of them (adapters, all weights); None for all. Gradients differ by rounding alone.
        episodes: test problems of an evaluation, each played once.
        arithmetic_episodes: level-1 problems behind the figure that options must not lose by: at 1,024 the
            standard error of a difference is .015 at most, and .011 over two models.
        hard_problems: test problems that are tried often, for pass@k.
        kl_episodes: of the evaluation's, whose KL is measured in token space; 0 for none.
        task_only: whether nothing is measured but the task: what else a policy can do (the bundled corpus'
            arithmetic, stories and text) says little of a model of another corpus, and costs a large one more
            than RL itself.
        device, dtype: of every model; None for the CPU.
        tuning_updates: of a run of the search for options; None for as many as of the others.

    Raises:
        ValueError: for a negative number, or arguments of the environment that are the comparison's own.
    """

    task: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    updates: int = 32
    prompts: int = 8
    group_size: int = 8
    warmup: int = 10
    micro_batch: int | None = None
    episodes: int = 256
    arithmetic_episodes: int = 1024
    hard_problems: int = 16
    kl_episodes: int = 64
    task_only: bool = False
    device: str | None = None
    dtype: str = "float32"
    tuning_updates: int | None = None

    def __post_init__(self) -> None:
        if min(self.warmup, self.kl_episodes) < 0:
            raise ValueError(
                f"warmup and kl_episodes must be at least 0, got {self.warmup} and {self.kl_episodes}"
            )
        own = sorted({"split", "model", "num_envs"} & set(self.env_kwargs))
        if own:
            raise ValueError(
                f"a comparison sets {own[0]} itself: leave it out of the environment's arguments"
            )


def probe_of(protocol: Protocol) -> dict[str, Any] | None:
    """What a run's side effects are measured on: by task its arguments; None where they are not measured."""
    return None if protocol.task_only else probed_on()


def former_probe_of(protocol: Protocol) -> dict[str, Any] | None:
    """The same of records that do not say it, as far as their settings tell.

    The probe then played the comparison's own task with the arguments of the comparison, its level say.
    """
    if (probe := probe_of(protocol)) and protocol.task in probe:
        own = {name: value for name, value in protocol.env_kwargs.items() if not carried({name: value})}
        probe[protocol.task] |= own
        probe["Text"] |= probed_on()["Text"]
    return probe


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        phase: ``"tuning"``, ``"main"``, ``"frontier"`` or ``"floor"``.
        arm: its name.
        model_seed: names the folder of its pre-trained model.
        seed: of RL.
        options: that were searched.
    """

    phase: str
    arm: str
    model_seed: int
    seed: int
    options: tuple[tuple[str, float], ...] = ()

    def key(self) -> dict[str, Any]:
        """The fields of the cell in its record."""
        return {**asdict(self), "options": dict(self.options)}


def run(cell: Cell, protocol: Protocol, models: Path) -> dict[str, Any]:
    """The record of a cell, which depends on nothing but the arguments (on one CPU thread).

    A run that diverges has ``failed``, the reason, in place of figures.
    """
    pretrained = models / str(cell.model_seed)
    if cell.phase == "floor":
        return {**cell.key(), "task": protocol.task, **floor(cell.arm, protocol, pretrained)}
    arm, started = ARMS[cell.arm], time.perf_counter()
    agent = make_agent(arm, protocol, pretrained, cell.seed, dict(cell.options))
    # What the search does not look at is not measured in it.
    detail = {"tuning": 0, "frontier": 1}.get(cell.phase, 2)
    try:
        before, prompts = _before(agent, protocol, detail, (arm.name, pretrained))
        tuning = cell.phase == "tuning" and protocol.tuning_updates
        costs = _learn(agent, tuning or protocol.updates)
        after, _ = _measured(agent, protocol, detail)
    except FloatingPointError as error:
        # A rate that is too high is a result; the next attempt would end alike.
        return {**cell.key(), "task": protocol.task, "commit": _commit(), "failed": str(error)}
    finally:
        agent.close()
    return {
        **cell.key(),
        "task": protocol.task,
        "commit": _commit(),
        "trained_parameters": sum(p.numel() for p in agent.actor.trained().values()),
        "fingerprint": agent.fingerprint,
        "prompts_sha256": prompts,
        "probe": probe_of(protocol),
        "curve": _curve(agent.history),
        "before": before,
        "after": after,
        "costs": {**costs, "save_mib": round(agent.save_bytes() / 2**20, 2)},
        "cpu_s": round(sum(record["cpu_s"] for record in agent.history), 2),
        "wall_s": round(time.perf_counter() - started, 1),
    }


@cache
def _commit() -> str | None:
    return provenance()["commit"]


def make_agent(arm: Arm, protocol: Protocol, pretrained: Path, seed: int, options: dict[str, Any]) -> GRPO:
    """The agent of a run, before its first update.

    Args:
        pretrained: the folder of a pre-trained seed.
        options: of the agent, besides those of the arm and the protocol.
    """
    return arm.agent(
        arm.env_id(protocol.task),
        num_envs=protocol.prompts * protocol.group_size,
        seed=seed,
        model=arm.backbone(pretrained, protocol.device, protocol.dtype),
        env_kwargs={**protocol.env_kwargs, **arm.env_kwargs},
        prompts=protocol.prompts,
        group_size=protocol.group_size,
        **{
            "warmup": protocol.warmup,
            "micro_batch": protocol.micro_batch,
            **arm.options_over(pretrained),
            **options,
        },
    )


def _learn(agent: GRPO, updates: int) -> dict[str, float | None]:
    """Make the updates; return seconds of an update (the median), and the most MiB in use in them."""
    device = next(agent.actor.parameters()).device
    memory = PeakMemory(device, beyond_start=False)
    memory.begin()
    seconds = []
    for _ in range(updates):
        started = time.perf_counter()
        agent.update()
        seconds.append(time.perf_counter() - started)
    return {"update_s": round(float(np.median(seconds)), 3), "peak_mib": memory.mib()}


def _curve(history: Sequence[dict[str, float]]) -> dict[str, list[float | None]]:
    """The columns of a learning curve; what is counted or spent is cumulative.

    An update that had nothing to learn from made no pass, and has neither KL nor entropy: None.
    """
    columns: dict[str, list[float | None]] = {
        "episodes": [int(record["episodes"]) for record in history],
        "actions": [int(record["timesteps"]) for record in history],
        "cpu_s": np.cumsum([record["cpu_s"] for record in history]).round(3).tolist(),
    }
    for name in ("reward", "kl", "entropy"):
        columns[name] = [round(record[name], 4) if name in record else None for record in history]
    return columns


Figures = dict[str, float | None]
_KNOWN: dict[Any, tuple[Figures, str]] = {}


def _before(agent: GRPO, protocol: Protocol, detail: int, whose: tuple[str, Path]) -> tuple[Figures, str]:
    """An agent's figures before RL; they do not depend on its seed and options, so they are measured once."""
    key = json.dumps([asdict(protocol), detail, *map(str, whose)])
    if key not in _KNOWN:
        _KNOWN[key] = _measured(agent, protocol, detail)
    return _KNOWN[key]


def _measured(agent: GRPO, protocol: Protocol, detail: int) -> tuple[Figures, str]:
    """Figures of a policy, and the hash of its test problems.

    Args:
        detail: 0 leaves out the held-out cross-entropy; 2 adds greedy play and pass@k.
    """
    sampled = agent.evaluate(protocol.episodes, seed=TEST_SEED)
    figures: Figures = {
        "reward": sampled.episode_rewards.mean().item(),
        "success": float(np.mean([info["success"] for info in sampled.infos])),
        **_parts(sampled),
    }
    if protocol.kl_episodes:
        first = np.arange(min(protocol.kl_episodes, len(sampled)))
        figures["token_kl"] = token_kl(agent, sampled.select(first))
    if detail == 2:
        greedy = agent.evaluate(protocol.episodes, seed=TEST_SEED, greedy=True)
        figures["reward_greedy"] = greedy.episode_rewards.mean().item()
        figures |= {f"{name}_greedy": share for name, share in _parts(greedy).items()}
    if not protocol.task_only:
        figures |= _others(agent, protocol, detail)
    return {name: None if v is None else round(v, 4) for name, v in figures.items()}, _prompts(agent, sampled)


def _parts(rollout: Rollout) -> dict[str, float]:
    """The shares of :data:`PARTS` that the episodes' task tells; one that broke off (``error``) has none."""
    return {
        name: float(np.mean([bool(info.get(name)) for info in rollout.infos]))
        for name in PARTS
        if any(name in info for info in rollout.infos)
    }


def _others(agent: GRPO, protocol: Protocol, detail: int) -> Figures:
    """Figures of what else a policy can do."""
    kept = probe(
        agent,
        episodes=protocol.episodes,
        arithmetic_episodes=protocol.arithmetic_episodes,
        num_batches=min(detail, 1),
    ).as_dict()
    del kept["episodes"]
    # A token that a policy can never give has no likelihood; JSON has no infinity.
    figures: Figures = {name: value if np.isfinite(value) else None for name, value in kept.items()}
    return figures | (_tried_often(agent, protocol) if detail == 2 else {})


def _tried_often(agent: GRPO, protocol: Protocol) -> dict[str, float]:
    """pass@k over some test problems, each tried as often as the largest k."""
    envs = make_rows(
        agent.env_id,
        128,
        model=agent.backbone,
        **{**agent.env_kwargs, "split": splits(agent.env_id)[1]},
    )
    tries = max(TRIES)
    count = protocol.hard_problems * tries
    problems = np.arange(TEST_SEED, TEST_SEED + protocol.hard_problems).repeat(tries)
    try:
        rollout = collect(
            envs.episodes,
            agent.actor,
            seeds=range(2 * TEST_SEED, 2 * TEST_SEED + count),
            problem_seeds=problems.tolist(),
            **agent.options.drawing,
        )
    finally:
        envs.close()
    solved = np.array([info["success"] for info in rollout.infos]).reshape(-1, tries).sum(1)
    return {f"pass@{k}": float(np.mean([pass_at_k(tries, int(c), k) for c in solved])) for k in TRIES}


@torch.no_grad()
def token_kl(agent: GRPO, rollout: Rollout) -> float:
    """KL to the initial policy in token space, in nats an answer, along a policy's own answers.

    At every state the KL is exact. Under an argmax world model it is between pushforwards, under a sampled
    one between mixtures over the codes; under ranks and at token level an action is a token. For codes that
    last several tokens it is between the codes, which is no less than in token space. A truncated policy is
    held against the whole initial one.
    """
    at, backbone, temperature = rollout.mask, agent.backbone, agent.options.temperature
    features = agent.actor.features(rollout)[at]
    with agent.policy.initial() as initial:
        theirs = initial.features(rollout)[at]
        by_code = isinstance(backbone, LatentBackbone) and backbone.model.config.span == 1
        if not by_code or isinstance(backbone, RankBackbone):
            kl = evaluate_actions(
                agent.actor,
                features,
                rollout.actions[at],
                drawing=agent.options.drawing,
                reference=(initial, theirs),
            ).kl
        else:
            hidden, other = rollout.hidden[at], initial.logits(theirs) / temperature
            logits = agent.actor.logits(features) / temperature
            if agent.env_kwargs.get("world_temperature"):
                kl = sampled_world_kl(backbone, hidden, logits, other)
            else:
                groups = code_groups(backbone, hidden)
                kl = categorical_kl(pushed(logits, groups), pushed(other, groups))
    return kl.sum().item() / len(rollout)


def splits(env_id: str) -> tuple[str, str]:
    """The splits that a task is trained and evaluated on."""
    builder = gym.spec(env_id).kwargs["builder"]
    names = splits_of(builder)
    if not names:
        raise ValueError(f"{env_id} has no splits: training and test problems would be the same")
    return names[0], evaluation_split(builder)


def _prompts(agent: GRPO, rollout: Rollout) -> str:
    """sha256 of the texts of the problems, which are the same for every arm and model."""
    digest = hashlib.sha256()
    for prompt in rollout.prompts:
        digest.update(agent.backbone.tokenizer.decode(prompt).encode() + b"\0")
    return digest.hexdigest()


# ---------------------------------------------------------------- floors

#: Policies that do not look at the text.
FLOORS = ("random-codes", "constant-code")


def floor(name: str, protocol: Protocol, pretrained: Path) -> dict[str, Any]:
    """The test reward of uniform random codes, or of the best constant code (chosen on training problems)."""
    backbone = ARMS["latent"].backbone(pretrained, protocol.device, protocol.dtype)
    num_codes, (train, test) = int(backbone.action_space.n), splits(ARMS["latent"].env_id(protocol.task))
    chosen, code = torch.zeros(num_codes), None
    if name == "constant-code":
        code = best_constant_code(num_codes, partial(_play, protocol, backbone, train))
        chosen = constant_codes(num_codes)[code]
    problems = range(TEST_SEED, TEST_SEED + protocol.episodes)
    rollout = _play(protocol, backbone, test, chosen.expand(protocol.episodes, -1), problems)
    after = {"reward": round(rollout.episode_rewards.mean().item(), 4)}
    return {"after": after, "fingerprint": backbone.fingerprint, **({} if code is None else {"code": code})}


def _play(
    protocol: Protocol, backbone: Any, split: str, logits: torch.Tensor, problems: Sequence[int]
) -> Rollout:
    """One episode a problem, row ``i`` with the fixed logits [R, A] of row ``i``."""
    envs = make_rows(
        ARMS["latent"].env_id(protocol.task),
        len(problems),
        model=backbone,
        split=split,
        **protocol.env_kwargs,
    )
    try:
        seeds = range(len(problems))
        return collect(envs.episodes, FixedCodes(logits), seeds=seeds, problem_seeds=list(problems))
    finally:
        envs.close()
