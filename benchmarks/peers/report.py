"""``python -m benchmarks peers``: its parts in order, the targets, and a table."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks import RESULTS, Commands
from benchmarks.peers import trl_grpo
from benchmarks.peers.python_work import measure_python_work
from benchmarks.peers.rollouts import measure_rollouts
from benchmarks.peers.setting import PeerSetting, Weights
from benchmarks.peers.updates import measure_updates
from benchmarks.targets import judged, targets_table
from cola_agents.commands.settings import positive
from cola_agents.common.files import write_json
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance

#: The least that was aimed at.
ROLLOUTS, UPDATE = 1.2, 2.0
PACKAGES = ("trl", "accelerate", "datasets", "stable-baselines3", "transformers", "torch")
NOTE = (
    "all contenders have the base of the bundled latent-action model as their language model; nothing ends "
    "an answer before its budget; CPU seconds of one process on one thread; ratios are medians over turns, "
    "low and high their least and most"
)


def measure_peers(given: argparse.Namespace) -> dict[str, Any]:
    """Every part, JSON-ready; ``given`` are the options of :func:`add`.

    Raises:
        ModuleNotFoundError: without TRL, where it is to take part; before anything is measured.
    """
    with_trl, tokens, repeats = not given.without_trl, given.tokens, given.repeats
    if with_trl:
        trl_grpo.require_trl()
    torch.set_num_threads(1)
    started = time.perf_counter()
    weights = Weights()
    sizes = {"group_size": given.group_size, "tokens": tokens}
    settings = [PeerSetting(prompts=count, **sizes) for count in given.prompts]
    prompts, rest = divmod(given.ppo_episodes, given.group_size)
    if rest:
        raise ValueError(
            f"{given.ppo_episodes} PPO episodes do not divide into prompts of {given.group_size} answers"
        )
    ppo = PeerSetting(prompts=prompts, **sizes)
    rollouts = [measure_rollouts(setting, weights, repeats, with_trl=with_trl) for setting in settings]
    results: dict[str, Any] = {
        **provenance(),
        "peer_packages": {name: _version(name) for name in PACKAGES if with_trl or name != "trl"},
        "with_trl": with_trl,
        "note": NOTE
        if with_trl
        else f"{NOTE}; TRL was left out (--without-trl): its targets are not measured",
        "model": {
            "fingerprint": weights.backbones["token"].fingerprint,
            "latent_fingerprint": weights.backbones["latent"].fingerprint,
            "token_parameters": sum(p.numel() for p in weights.whole.parameters()),
        },
        "lr": ppo.lr,
        "kl_coef": ppo.kl_coef,
        "repeats": repeats,
        "grpo": rollouts,
        "grpo_differences": list(trl_grpo.DIFFERENCES) if with_trl else [],
        "updates": {
            **measure_updates(
                ppo, weights, given.ppo_repeats, passes=given.ppo_passes, minibatches=given.ppo_minibatches
            ),
            "grpo": [_grpo_update(part) for part in rollouts],
        },
        "python_work": measure_python_work(
            weights, rows=tuple(given.work_rows), tokens=(max(1, tokens // 3), tokens), repeats=repeats
        ),
    }
    results["targets"] = targets(results)
    results["wall_s"] = round(time.perf_counter() - started, 1)
    return results


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _grpo_update(part: dict[str, Any]) -> dict[str, Any]:
    """A GRPO update without its playing: what the iteration took beyond the rollout."""
    return {
        "episodes": part["rows"],
        **{f"{level}_cpu_s": part["seconds"][f"{level} update"]["cpu_s"] for level in ("latent", "token")},
        "token_of_latent": part["update_token_of_latent"],
    }


def targets(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets beside the measurements; ``met`` is None where nothing was measured."""
    return judged(_judged(results))


def _judged(results: dict[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    for part in results["grpo"]:
        for level in ("token", "latent"):
            ratio = part.get("rollouts_faster_than_trl", {}).get(level, {}).get("median")
            text = f"{level} rollouts at least {ROLLOUTS} times TRL's, {part['rows']} rows"
            yield text, ratio, ratio is not None and ratio >= ROLLOUTS
    ratio = results["updates"]["token_of_latent"]["median"]
    yield f"latent PPO update at least {UPDATE:g} times the token level's own", ratio, ratio >= UPDATE
    fewer, more = results["python_work"]["rows"]
    for level in ("token", "latent"):
        at = results["python_work"][level]["calls_per_row_and_step"]
        text = f"{level}: no more Python calls a row and step at {more} rows than at {fewer}"
        yield text, at, at[1] <= at[0]


def peers_table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    iterations, ratios = [], []
    for part in results["grpo"]:
        for name, speed in part["tokens_per_cpu_s"].items():
            whole = part["seconds"][f"{name} iteration"]
            iterations.append([part["rows"], name, speed, whole["cpu_s"], whole["wall_s"]])
        for key in (
            "rollouts_faster_than_trl",
            "rollouts_faster_than_trl_with_grading",
            "iteration_faster_than_trl",
        ):
            if key in part:
                shown = [_spread(part[key][level]) for level in ("latent", "token")]
                ratios.append([part["rows"], key.replace("_", " "), *shown])
    updates = results["updates"]
    seconds = [[name, taken["cpu_s"], taken["wall_s"]] for name, taken in updates["seconds"].items()]
    ppo = [
        [f"PPO, {key.replace('_', ' ')}", _spread(updates[key])]
        for key in ("token_of_latent", "rows_of_token", "rows_of_latent")
    ]
    grpo = [
        [f"GRPO, {part['episodes']} episodes, token of latent", _spread(part["token_of_latent"])]
        for part in updates["grpo"]
    ]
    work = results["python_work"]
    at = f"Python work at {' and '.join(map(str, work['rows']))} rows"
    names = ("calls_per_step", "loop_us_per_row_and_step", "loop_share")
    python = [[level, *(work[level][name] for name in names)] for level in ("latent", "token")]
    return "\n\n".join(
        [
            results["note"].capitalize() + ".",
            table(["rows", "contender", "tokens/CPU-s", "iteration CPU-s", "iteration wall-s"], iterations),
            table(["rows", "ratio to TRL", "latent", "token"], ratios),
            table(["PPO update", "CPU-s", "wall-s"], seconds),
            table(["update", "ratio"], ppo + grpo),
            table([at, "calls a step", "loop's own us a row and step", "share"], python),
            targets_table(results["targets"]),
        ]
    )


def _spread(ratio: dict[str, Any]) -> str:
    return f"{ratio['median']} ({ratio['low']} to {ratio['high']})"


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "peers", help="rollouts and updates beside TRL's GRPOTrainer and per-token rows"
    )
    parser.add_argument(
        "--prompts", type=positive, nargs="+", default=[4, 16], help="of a GRPO iteration, each a measurement"
    )
    parser.add_argument("--group-size", type=positive, default=8)
    parser.add_argument("--tokens", type=positive, default=48, help="of every answer")
    parser.add_argument("--repeats", type=positive, default=7, help="turns of rollouts and iterations")
    parser.add_argument("--ppo-episodes", type=positive, default=32)
    parser.add_argument("--ppo-passes", type=positive, default=2)
    parser.add_argument("--ppo-minibatches", type=positive, default=4, help="gradient steps of a pass")
    parser.add_argument("--ppo-repeats", type=positive, default=5)
    parser.add_argument(
        "--work-rows", type=int, nargs=2, default=[32, 128], help="rows at which Python's work is counted"
    )
    parser.add_argument("--without-trl", action="store_true", help="run the rest where TRL is not installed")
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    results = measure_peers(arguments)
    write_json(arguments.out, results, indent=1)
    print(peers_table(results))
