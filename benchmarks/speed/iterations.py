"""``python -m benchmarks iterations``: whole iterations of PPO and GRPO, at 8B shapes where there is a GPU.

Unattended: every algorithm at both levels plays and learns a few times, and what was measured is written
after each. Latent actions train the whole policy stack, token actions adapters (LoRA) on the base: the base's
own weights with their optimiser do not fit one GPU (``python -m benchmarks memory``). Without ``--model`` the
weights are random, of the shape of Llama-3.1-8B on a GPU and of a small one on a CPU: times and memory do
not depend on what weights say, but no problem is solved. An arm that runs out of memory is recorded as such.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import RESULTS, Commands, options
from benchmarks.peak_memory import PeakMemory, free_memory
from benchmarks.speed.decoding import base_tokens, random_model
from benchmarks.speed.limits import synchronise
from benchmarks.speed.shapes import SHAPES, is_out_of_memory
from benchmarks.speed.turns import PlayingTimes
from cola_agents.commands.settings import positive
from cola_agents.common.files import write_json
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.loading import BUNDLED, make_backbone
from cola_agents.model.loading import load_tokenizer
from cola_agents.rl.agent import Agent
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.memory import memory_plan
from cola_agents.rl.ppo import PPO
from cola_envs.backbone import Level

ALGORITHMS: dict[str, type[Agent]] = {"ppo": PPO, "grpo": GRPO}


@dataclass(frozen=True)
class Work:
    """The sizes of an iteration.

    Attributes:
        rows: that play side by side.
        episodes: of an iteration; GRPO's are groups of 8.
        max_tokens: of an answer.
        minibatch, micro_batch: as the agents' options.
        lora_rank: of token actions.
    """

    rows: int
    episodes: int
    max_tokens: int
    minibatch: int
    micro_batch: int
    lora_rank: int = 16

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1 or self.episodes % 8:
            raise ValueError(f"every figure is at least 1 and episodes a multiple of 8, got {self}")

    def options(self, algorithm: str, level: Level) -> dict[str, Any]:
        """The agent's options; both algorithms make one pass over a batch."""
        chosen: dict[str, Any] = {"epochs": 1, "minibatch": self.minibatch, "micro_batch": self.micro_batch}
        if algorithm == "ppo":
            chosen["episodes"] = self.episodes
        else:
            chosen |= {"prompts": self.episodes // 8, "group_size": 8}
        return chosen | ({"lora_rank": self.lora_rank} if level == "token" else {})


WORK = {
    "8b": Work(rows=64, episodes=64, max_tokens=512, minibatch=32, micro_batch=2),
    "small": Work(rows=16, episodes=16, max_tokens=16, minibatch=8, micro_batch=4),
}


class Filled:
    """The bundled tokenizer, and meaningless ids for the rest of a larger vocabulary."""

    def __init__(self, size: int) -> None:
        self._own = load_tokenizer(BUNDLED / "cola")
        self._size = size
        self.eos_token_id = self._own.eos_token_id

    def __len__(self) -> int:
        return self._size

    def encode(self, text: str, **settings: Any) -> list[int]:
        return self._own.encode(text, **settings)

    def decode(self, ids: Sequence[int], **settings: Any) -> str:
        return self._own.decode([int(i) % len(self._own) for i in ids], **settings)

    def get_vocab(self) -> dict[str, int]:
        return self._own.get_vocab() | {f"<{i}>": i for i in range(len(self._own), self._size)}


def measure_iterations(
    *,
    model: str | None = None,
    shape: str | None = None,
    device: str | None = None,
    env: str = "CoLA-Math500",
    work: Work | None = None,
    updates: int = 3,
    save: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """Run all arms, JSON-ready.

    Args:
        model: a latent-action checkpoint; None for random weights of ``shape``.
        shape: a name in :data:`~benchmarks.speed.shapes.SHAPES`; None for ``"8b"`` on a GPU, else
            ``"small"``. It also says how much is played.
        device: None for a GPU where there is one.
        env: what is played, without ``-v0``.
        work: in place of the shape's.
        updates: counted iterations of each arm, after one that is not.
        save: called with what there is after every arm.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if where.type == "cpu":
        torch.set_num_threads(1)
    shape = shape or ("8b" if where.type == "cuda" else "small")
    work = work or WORK[shape]
    results: dict[str, Any] = {
        **provenance(),
        "device": where.type,
        "weights": "random" if model is None else Path(model).name,
        "shape": shape if model is None else "the checkpoint's",
        "env": env,
        "work": dataclasses.asdict(work),
        "updates": updates,
        "arms": [],
    }
    if where.type == "cpu":
        results["note"] = "no GPU: a small shape, which says nothing about 8B"
    memory = PeakMemory(where)
    given: LatentBackbone | TokenBackbone = _latent(model, shape, where)
    results["config"] = {"dtype": str(given.model.dtype).removeprefix("torch."), **_sizes(given.model.config)}
    for level in ("latent", "token"):
        if level == "token":
            assert isinstance(given, LatentBackbone)
            # Only the base stays in memory, as when a plain language model is learned with.
            given = base_tokens(given)
        for algorithm in ALGORITHMS:
            arm = {"algorithm": algorithm, "level": level}
            memory.begin()
            try:
                figures = _measure(given, algorithm, level, env, work, updates, where)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                figures = {"out_of_memory": str(error).splitlines()[0]}
            figures |= {"peak_memory_mib": memory.mib(), "memory_is": memory.what}
            free_memory(where)
            results["arms"].append(arm | figures)
            save(results)
    return results


def _latent(model: str | None, shape: str, device: torch.device) -> LatentBackbone:
    if model is not None:
        dtype = "bfloat16" if device.type == "cuda" else "float32"
        made = make_backbone(model, level="latent", device=str(device), dtype=dtype)
        assert isinstance(made, LatentBackbone)
        return made
    config = SHAPES[shape].config()
    tokenizer = Filled(config.get_text_config().vocab_size)
    return LatentBackbone(random_model(config, device, SHAPES[shape].dtype), tokenizer)


def _sizes(config: Any) -> dict[str, int]:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_key_value_heads")
    text = config.get_text_config()
    return {name: getattr(text, name) for name in names} | {"num_policy_layers": config.num_policy_layers}


def _measure(
    backbone: Any, algorithm: str, level: Level, env: str, work: Work, updates: int, device: torch.device
) -> dict[str, Any]:
    """One arm: seconds and tokens of its iterations, and the memory that was planned for it."""
    with warnings.catch_warnings():
        # A substitute for a set that is not here, and rewards that are all 0: both are in the results.
        warnings.simplefilter("ignore")
        agent = ALGORITHMS[algorithm](
            f"{env}-v0" if level == "latent" else f"{env}-Token-v0",
            num_envs=work.rows,
            model=backbone,
            env_kwargs={"max_tokens": work.max_tokens},
            lr=1e-6,
            **work.options(algorithm, level),
        )

        def clock() -> float:
            synchronise(device)
            return time.perf_counter()

        rollouts = PlayingTimes(clock)
        seconds, playing, tokens, longest = [], [], [], 0
        try:
            for number in range(updates + 1):
                before, started = agent.num_timesteps, clock()
                agent.learn(1, callback=rollouts)
                if number:
                    seconds.append(clock() - started)
                    playing.append(rollouts.seconds[-1])
                    tokens.append(agent.num_timesteps - before)
                longest = max(longest, *map(len, agent.episodes.session.tokens))  # type: ignore[attr-defined]
        finally:
            agent.close()
    record = agent.history[-1]
    plan = memory_plan(
        backbone.model.config,
        level=level,
        rows=work.rows,
        length=longest,
        prompt=max(longest - work.max_tokens, 1),
        episodes=work.episodes,
        minibatch=work.minibatch,
        micro_batch=work.micro_batch,
        lora_rank=agent.options.lora_rank,
        dtype=str(backbone.model.dtype).removeprefix("torch."),
    )
    return {
        "seconds": round(statistics.median(seconds), 3),
        "playing_seconds": round(statistics.median(playing), 3),
        "learning_seconds": round(statistics.median(s - p for s, p in zip(seconds, playing, strict=True)), 3),
        "tokens": tokens,
        "tokens_per_s": round(statistics.median(n / s for n, s in zip(tokens, seconds, strict=True)), 1),
        "playing_tokens_per_s": round(
            statistics.median(n / s for n, s in zip(tokens, playing, strict=True)), 1
        ),
        "all_seconds": [round(value, 3) for value in seconds],
        "longest_episode": longest,
        "trained_parameters": sum(p.numel() for p in agent.actor.trained().values()),
        "planned_peak_mib": round(plan["peak"] * 1024, 1),
        "last_record": {name: round(value, 6) for name, value in record.items()},
    }


def iterations_table(results: dict[str, Any]) -> str:
    """Every arm, as Markdown."""
    about = (
        f"{results['env']}, {results['weights']} weights, shape {results['shape']}, {results['device']}, "
        f"{results['work']['episodes']} episodes an iteration. {results.get('note', '')}".rstrip()
    )
    figures = {
        "s / iteration": "seconds",
        "playing": "playing_seconds",
        "learning": "learning_seconds",
        "tokens/s": "tokens_per_s",
        "peak MiB": "peak_memory_mib",
        "planned MiB": "planned_peak_mib",
    }
    no_memory = ["out of memory", *[""] * (len(figures) - 1)]
    rows = [
        [arm["level"], arm["algorithm"]]
        + (no_memory if "out_of_memory" in arm else [arm[name] for name in figures.values()])
        for arm in results["arms"]
    ]
    return f"{about}\n\n{table(['level', 'algorithm', *figures], rows)}"


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "iterations", help="whole PPO and GRPO iterations at both levels: seconds, tokens/s, peak memory"
    )
    parser.add_argument("--model", help="a latent-action checkpoint; default: random weights")
    parser.add_argument("--shape", choices=tuple(SHAPES), help="default: 8b where there is a GPU")
    parser.add_argument("--device", help="default: cuda where there is one")
    parser.add_argument("--env", default="CoLA-Math500", help="without -v0")
    parser.add_argument("--updates", type=positive, default=3, help="counted, after one that is not")
    parser.add_argument("--out", type=Path, default=RESULTS / "iterations.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    # What an earlier run published stays until this one is through.
    partial = arguments.out.with_suffix(".partial.json")
    names = ("model", "shape", "device", "env", "updates")
    results = measure_iterations(
        **options(arguments, *names),
        save=lambda so_far: write_json(partial, so_far, indent=1),
    )
    partial.replace(arguments.out)
    print(iterations_table(results))
