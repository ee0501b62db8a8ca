"""How much single actions decide, and how much of a policy gradient is signal.

Both ask why one action space learns sooner than another. At states along a policy's own episodes every
action is taken and played on from many times (:mod:`benchmarks.credit.branching`); over a batch of episodes
the gradient's mean is held against its spread (:mod:`benchmarks.credit.gradients`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import RESULTS, Commands, options
from benchmarks.compare.arms import ARMS
from benchmarks.credit.branching import Branched, Visited, credit, states_along
from benchmarks.credit.gradients import Signal, gradient_snr
from benchmarks.statistics import Runs, estimate, hierarchical_means, interval_text
from cola_agents.commands.settings import settings as keyword_arguments
from cola_agents.common.files import write_json, write_whole
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_agents.decoding.loading import BUNDLED
from cola_agents.rl.agent import Agent
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.rows import make_rows
from cola_envs.fields import mean_scores

TASKS = ("Arithmetic:level=2", "TextRooms", "Countdown", "Thinking")


@dataclass(frozen=True)
class Study:
    """The measurements of one agent.

    Attributes:
        figures: of the whole, ready for JSON.
        visited, branched: the states, and what every action is worth in each.
        texts: per state the prompt, the text so far, and the text that each outcome adds.
    """

    figures: dict[str, Any]
    visited: list[Visited]
    branched: list[Branched]
    texts: list[tuple[str, str, list[str]]]

    def states(self) -> list[dict[str, Any]]:
        """The states, ready for JSON. ``actions[o]`` are those of outcome o, which share a value."""
        return [
            {
                "problem_seed": visited.problem_seed,
                "step": visited.step,
                "length": visited.length,
                "prompt": prompt,
                "text": text,
                "actions": [list(actions) for actions in branched.actions],
                "tokens": added,
                "prior": [float(f"{share:.4g}") for share in branched.prior],
                "q": _rounded(branched.q),
                "se": _rounded(branched.q_error),
                "value": round(branched.value, 4),
                "between": round(branched.between, 6),
                "within": round(branched.within, 6),
                "best_gain": round(branched.best_gain, 4),
            }
            for visited, branched, (prompt, text, added) in zip(
                self.visited, self.branched, self.texts, strict=True
            )
        ]


def study(
    agent: Agent,
    *,
    problems: int = 10,
    positions: int = 2,
    continuations: int = 24,
    max_actions: int = 64,
    split: str = "train",
    num_envs: int = 128,
    seed: int = 0,
) -> Study:
    """Measure one bundled agent as it is; it is not trained.

    Args:
        agent: its actions are drawn as its options say, which also say on how many groups the gradient is
            measured (``prompts``, ``group_size``).
        problems: problem i has seed ``seed + i``, whatever agent plays it.
        positions, continuations, max_actions: see :func:`~benchmarks.credit.branching.states_along` and
            :func:`~benchmarks.credit.branching.credit`.
        split: of the task, for the states; the gradient is measured where the agent learns.
        num_envs: rows that play side by side.
    """
    started = time.process_time()
    signals, batch = gradient_snr(agent)
    between = time.process_time()
    made = make_rows(agent.env_id, num_envs, model=agent.backbone, **{**agent.env_kwargs, "split": split})
    try:
        settings: dict[str, Any] = {**agent.options.drawing, "seed": seed}
        seeds = range(seed, seed + problems)
        visited = states_along(made.episodes, agent.actor, seeds, positions=positions, **settings)
        branched = credit(
            made.episodes,
            agent.actor,
            [visit.state for visit in visited],
            max_actions=max_actions,
            continuations=continuations,
            **settings,
        )
    finally:
        made.close()
    decode = agent.backbone.tokenizer.decode
    texts = [
        (
            visit.state.prompt,
            decode(visit.state.tokens[visit.state.prompt_length :]),
            [decode(added) for added in each.tokens],
        )
        for visit, each in zip(visited, branched, strict=True)
    ]
    figures = {
        "env_id": agent.env_id,
        "fingerprint": agent.fingerprint,
        "split": split,
        "states": len(visited),
        "continuations": continuations,
        **_episodes(agent, batch.rollout),
        "frac_zero_advantage": round(batch.figures["frac_zero_advantage"], 4),
        "gradient": {part: _signal(signal, batch.rollout) for part, signal in signals.items()},
        "decided": {
            "first": decided_by_actions(visited, branched, lambda state: state.step == 0),
            "later": decided_by_actions(visited, branched, lambda state: state.step > 0),
        },
        "cpu_s": {
            "gradient": round(between - started, 1),
            "branching": round(time.process_time() - between, 1),
        },
    }
    return Study(figures, visited, branched, texts)


@torch.no_grad()
def _episodes(agent: Agent, rollout: Rollout) -> dict[str, Any]:
    """Success, length and effective number of actions over a batch of episodes."""
    entropy, size = 0.0, 64
    for at in range(0, len(rollout), size):
        part = rollout.select(np.arange(at, min(at + size, len(rollout))))
        entropy += agent.policy.evaluate_actions(part, with_kl=False).entropy.sum().item()
    return {
        "episodes": len(rollout),
        "reward": round(rollout.episode_rewards.mean().item(), 4),
        "success": round(float(np.mean([info["success"] for info in rollout.infos])), 4),
        **{name: round(value, 4) for name, value in mean_scores(rollout.infos).items()},
        "actions_per_episode": round(rollout.num_actions / len(rollout), 2),
        "effective_actions": round(float(np.exp(entropy / rollout.num_actions)), 3),
    }


def _signal(signal: Signal, rollout: Rollout) -> dict[str, Any]:
    """Signal and noise of a group's gradient; ``per_episode`` is the ratio that levels are compared by."""
    size = len(rollout) // signal.count
    per_episode = None if signal.ratio is None else signal.ratio / size
    return {
        "signal": signal.signal,
        "noise": signal.noise,
        "groups": signal.count,
        "group_size": size,
        "per_episode": per_episode,
        "error": None if signal.error is None else signal.error / size,
    }


def decided_by_actions(
    visited: Sequence[Visited], branched: Sequence[Branched], counts: Callable[[Visited], bool]
) -> dict[str, Any] | None:
    """What single actions decide, over the states that count; None where there are none.

    Intervals resample problems, then states within them.
    """
    chosen = [(state, each) for state, each in zip(visited, branched, strict=True) if counts(state)]
    if not chosen:
        return None

    def runs(value: Callable[[Branched], float]) -> Runs:
        values: dict[int, list[float]] = {}
        for state, each in chosen:
            values.setdefault(state.problem_seed, []).append(value(each))
        return values

    def mean(value: Callable[[Branched], float]) -> dict[str, float]:
        result = estimate(runs(value))
        return {"mean": result.mean, "low": result.low, "high": result.high}

    def plain(value: Callable[[Branched], float], digits: int) -> float:
        return round(float(np.mean([value(each) for _, each in chosen])), digits)

    return {
        "states": len(chosen),
        "outcomes_per_state": plain(lambda each: len(each.actions), 2),
        "effective_outcomes": plain(lambda each: _perplexity(each.weights), 3),
        "mass_tried": plain(lambda each: each.prior.sum(), 5),
        "value": mean(lambda each: each.value),
        "between": mean(lambda each: each.between),
        "within": mean(lambda each: each.within),
        "share": _share(runs(lambda each: each.between), runs(lambda each: each.within)),
        "best_gain": mean(lambda each: each.best_gain),
    }


def _share(between: Runs, within: Runs) -> dict[str, float] | None:
    """The part of the return's variance that the action decides; None where returns do not vary."""
    parts = [estimate(runs).mean for runs in (between, within)]
    if not sum(parts) > 0:
        return None
    # One seed and one shape: the same problems and states are drawn for both.
    decided, later = hierarchical_means(between), hierarchical_means(within)
    varies = decided + later > 0
    low, high = np.quantile(decided[varies] / (decided + later)[varies], [0.025, 0.975])
    return {"mean": parts[0] / sum(parts), "low": float(low), "high": float(high)}


def _perplexity(weights: np.ndarray) -> float:
    """The number of equal weights with the same entropy."""
    weights = weights[weights > 0]
    return float(np.exp(-(weights * np.log(weights)).sum()))


def measure_credit(
    *,
    tasks: Sequence[str] = TASKS,
    arms: Sequence[str] = ("latent", "token"),
    models: Path = BUNDLED,
    groups: int = 128,
    group_size: int = 8,
    seed: int = 0,
    **settings: Any,
) -> dict[tuple[str, str], Study]:
    """A :class:`Study` of every task and arm, each of the policy that RL begins with.

    Args:
        tasks: names as in ``CoLA-NAME-v0``, each with arguments of its environment where it has some:
            ``"Arithmetic:level=2"``.
        arms: names of :data:`benchmarks.compare.arms.ARMS`.
        models: the folder of a pre-trained seed (``python -m benchmarks models``). The bundled ones have what
            all arms but ``"rank"`` and the controls of the stages need.
        groups, group_size: what the gradient is measured on: the arm's own, GRPO's, without a KL term.
        settings: of :func:`study`.

    Raises:
        FileNotFoundError: for an arm whose model is not in the folder.
    """
    studies = {}
    for task in tasks:
        title, _, given = task.partition(":")
        env_kwargs = keyword_arguments([pair for pair in given.split(",") if pair], f"after {title}")
        for name in arms:
            arm = ARMS[name]
            agent = arm.agent(
                arm.env_id(title),
                model=arm.backbone(models),
                num_envs=128,
                seed=seed,
                env_kwargs={**env_kwargs, **arm.env_kwargs},
                **{**arm.options, "kl_coef": 0.0, "prompts": groups, "group_size": group_size},
            )
            try:
                studies[task, name] = study(agent, seed=seed, **settings)
            finally:
                agent.close()
    return studies


def results_of(studies: Mapping[tuple[str, str], Study]) -> dict[str, Any]:
    """All figures and states, ready for JSON."""
    return {
        **provenance(),
        "studies": [
            {"task": task, "arm": arm, **one.figures, "visited": one.states()}
            for (task, arm), one in studies.items()
        ],
    }


def credit_table(results: Mapping[str, Any]) -> str:
    """Two Markdown tables: what actions decide, and the gradient."""
    return "\n\n".join([_decided_table(results), _gradient_table(results), _note(results)])


def _decided_table(results: Mapping[str, Any]) -> str:
    head = ["task", "arm", "action", "outcomes a state", "of the policy's mass", "decided by the action"]
    head += ["decided after it", "share of the action", "gain of the action picked"]
    rows = []
    for one in results["studies"]:
        for where, decided in one["decided"].items():
            if decided is None:
                continue
            outcomes = f"{decided['outcomes_per_state']:.1f} ({decided['effective_outcomes']:.2f} effective)"
            variances = [interval_text(decided[name], 4) for name in ("between", "within")]
            share = "returns do not vary" if decided["share"] is None else interval_text(decided["share"], 3)
            row = [one["task"], one["arm"], where, outcomes, f"{decided['mass_tried']:.4f}"]
            rows.append([*row, *variances, share, interval_text(decided["best_gain"], 3)])
    return table(head, rows)


def _gradient_table(results: Mapping[str, Any]) -> str:
    head = ["task", "arm", "success", "actions an episode", "effective actions"]
    head += ["groups without a difference", "signal-to-noise an episode", "episodes to 1"]
    rows = []
    for one in results["studies"]:
        whole = one["gradient"]["all"]
        ratio, needed = whole["per_episode"], "no gradient"
        if ratio is not None:
            needed = f"{1 / ratio:.0f}" if ratio > 0 else "not told from 0"
        error = "unknown" if whole["error"] is None else f"{whole['error']:.5f}"
        cell = "no gradient" if ratio is None else f"{ratio:.5f} ± {error}"
        row = [one["task"], one["arm"], f"{one['success']:.3f}", f"{one['actions_per_episode']:.1f}"]
        row += [f"{one[name]:.2f}" for name in ("effective_actions", "frac_zero_advantage")]
        rows.append([*row, cell, needed])
    return table(head, rows)


def _note(results: Mapping[str, Any]) -> str:
    first = results["studies"][0]
    return (
        f"{first['states']} states along the policy's own episodes ({first['split']} split), "
        f"{first['continuations']} continuations of every action with paired random numbers. Variances of "
        "the return: between the values of actions, drawn as the policy draws them, and after the action; "
        "unbiased, so that a small one may come out negative. The gain is of the action that half of the "
        "continuations pick, valued by the other half, above the policy's mean: a lower bound of the best "
        "action's gain. Intervals of 95 % are Student's over problems; those of shares resample problems, "
        f"then states. Gradients: of {first['gradient']['all']['groups']} groups of "
        f"{first['gradient']['all']['group_size']} answers; squared norm of the mean over the trace of the "
        "covariance, unbiased, ± one standard error by the jackknife."
    )


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(values, 4).tolist()


def draw(studies: Mapping[tuple[str, str], Study], path: Path, *, shown: int = 6) -> None:
    """Values by action at some states, and signal-to-noise, a row for each task, as a PNG."""
    from matplotlib.figure import Figure

    tasks, arms = (list(dict.fromkeys(key[at] for key in studies)) for at in (0, 1))
    figure = Figure(figsize=(3.2 * (len(arms) + 1), 3.0 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), len(arms) + 1, squeeze=False)
    for row, task in zip(axes, tasks, strict=True):
        for place, arm in zip(row, arms, strict=False):
            place.set(title=f"{task}, {arm}", xlabel="outcomes, best first", ylabel="value")
            # The states in which the action decides most.
            for branched in sorted(studies[task, arm].branched, key=lambda each: -each.between)[:shown]:
                order = np.argsort(-branched.q, kind="stable")
                place.errorbar(
                    np.arange(1, len(order) + 1),
                    branched.q[order],
                    branched.q_error[order],
                    marker=".",
                    linewidth=1,
                    elinewidth=0.6,
                )
        ratios = [studies[task, arm].figures["gradient"]["all"] for arm in arms]
        row[-1].bar(
            arms,
            [signal["per_episode"] or 0.0 for signal in ratios],
            yerr=[signal["error"] or 0.0 for signal in ratios],
            color="#1b6ca8",
            capsize=3,
        )
        row[-1].set(title=f"{task}: gradient", ylabel="signal-to-noise an episode")
    figure.savefig(path, dpi=130)


def add(commands: Commands) -> None:
    """Add the command to ``python -m benchmarks``."""
    parser = commands.add_parser(
        "credit", help="the value of every action at chosen states, and the policy gradient's signal"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(TASKS),
        metavar="TASK[:KEY=VALUE,...]",
        help="as in CoLA-TASK-v0, with arguments of the environment",
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=tuple(ARMS),
        help="as in `compare`; default: latent, token, and rank where its model is",
    )
    parser.add_argument("--models", type=Path, default=BUNDLED, help="a seed's folder of `benchmarks models`")
    parser.add_argument("--problems", type=int, default=10)
    parser.add_argument(
        "--positions", type=int, default=2, help="states of an episode: its first, and so many less one drawn"
    )
    parser.add_argument("--continuations", type=int, default=64, help="of every action")
    parser.add_argument("--max-actions", type=int, default=64, help="the policy's likeliest")
    parser.add_argument("--groups", type=int, default=128, help="problems that the gradient is measured on")
    parser.add_argument("--group-size", type=int, default=8, help="answers to each")
    parser.add_argument("--split", default="train", help="of the problems whose states are branched")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--returns", type=Path, help="an .npz file for every single return")
    parser.add_argument("--out", type=Path, default=RESULTS / "credit.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    arms = arguments.arms
    if arms is None:
        arms = ["latent", "token", *(["rank"] if (arguments.models / "rank").is_dir() else [])]
    measured = ("tasks", "models", "groups", "group_size", "seed")
    played = ("problems", "positions", "continuations", "max_actions", "split")
    studies = measure_credit(arms=arms, **options(arguments, *measured, *played))
    results = results_of(studies)
    write_json(arguments.out, results)
    page = credit_table(results)
    write_whole(arguments.out.with_suffix(".md"), (page + "\n").encode())
    draw(studies, arguments.out.with_suffix(".png"))
    if arguments.returns is not None:
        returns: dict[str, Any] = {
            f"{task}/{arm}/{number}": branched.returns
            for (task, arm), one in studies.items()
            for number, branched in enumerate(one.branched)
        }
        np.savez_compressed(arguments.returns, **returns)
    print(page)
