"""``cola demo``: one task learned over latent actions and over tokens, on the bundled models.

The task is the format reward of ``CoLA-Thinking-v0``, or another one. Both arms run the same GRPO loop for
the same number of rollouts; what each lost elsewhere is measured before and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from cola_agents.common import markdown
from cola_agents.common.files import write_json
from cola_agents.common.provenance import provenance
from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.loading import make_backbone
from cola_agents.evaluation.probe import probe
from cola_agents.evaluation.scores import first_reached
from cola_agents.rl.collecting import collect
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.rows import check_rows, make_rows
from cola_envs.build import evaluation_split, spec_of, twin_id
from cola_envs.fields import TEXT
from cola_envs.jsonl import JsonObject
from cola_envs.shown import shown_line

TASK = "CoLA-Thinking-v0"
THRESHOLD = 0.9
#: Training problems on which the best constant code is chosen.
FLOOR_PROBLEMS = 16


@dataclass(frozen=True)
class Arm:
    """One side of the comparison: an environment id and its tuned options."""

    name: str
    env_id: str
    options: JsonObject


#: The best of the grid in benchmarks/results/format_reward_tuning.md: of the options that kept arithmetic
#: within .02 of its start, those that reached .9 in the fewest rollouts (of equals, the best arithmetic).
ARMS = (
    Arm("latent", TASK, {"lr": 3e-3, "kl_coef": 0.1, "warmup": 0}),
    Arm("token", twin_id(TASK), {"lr": 3e-4, "kl_coef": 0.1, "warmup": 0}),
)


@dataclass(frozen=True)
class FixedCodes:
    """A policy that ignores the state: row ``i`` always has the logits ``logits[i]``, [R, A]."""

    logits: Tensor

    def attach(self, session: object) -> Callable[[Sequence[int]], Tensor]:
        return lambda rows: self.logits[list(rows)]


def constant_codes(num_codes: int) -> Tensor:
    """Logits [A, A] under which row ``i`` always takes code ``i``."""
    return torch.eye(num_codes).clamp_min(1e-30).log()


def best_constant_code(num_codes: int, play: Callable[[Tensor, Sequence[int]], Rollout]) -> int:
    """The code with the highest reward on :data:`FLOOR_PROBLEMS` training problems, taken at every step.

    Args:
        play: plays an episode for each row of its logits [A, A], of the problem seeds that it is given.
    """
    always, totals = constant_codes(num_codes), torch.zeros(num_codes)
    for problem in tqdm(range(FLOOR_PROBLEMS), desc="constant codes", unit="problem", leave=False):
        totals += play(always, [problem] * num_codes).episode_rewards
    return int(totals.argmax())


def floor(
    task: str = TASK,
    env_kwargs: JsonObject | None = None,
    *,
    episodes: int = 256,
    seed: int = 10_000,
    device: str | None = None,
    dtype: str = "float32",
) -> dict[str, float]:
    """The mean reward of uniform random codes and of the best constant code, on test problems.

    The constant code is chosen on training problems, which every code plays.
    """
    backbone = make_backbone(level="latent", device=device, dtype=dtype)
    num_codes = int(backbone.action_space.n)
    builder, kwargs = spec_of(task).kwargs["builder"], {**(env_kwargs or {}), "model": backbone}
    with closing(make_rows(task, num_codes, **kwargs)) as train:

        def play(logits: Tensor, problems: Sequence[int]) -> Rollout:
            seeds = range(len(problems))
            return collect(train.episodes, FixedCodes(logits), seeds=seeds, problem_seeds=problems)

        best = best_constant_code(num_codes, play)
    rows = torch.zeros(64, 1)
    policies = {
        "random_codes": rows.expand(-1, num_codes),
        "constant_code": constant_codes(num_codes)[best] + rows,
    }
    seeds = range(seed, seed + episodes)
    with closing(make_rows(task, 64, **kwargs, split=evaluation_split(builder))) as test:
        means = {
            name: _mean_reward(collect(test.episodes, FixedCodes(logits), seeds=seeds))
            for name, logits in policies.items()
        }
    return {**means, "constant_code_is": best}


def _mean_reward(rollout: Rollout) -> float:
    return rollout.episode_rewards.mean().item()


def run_arm(
    arm: Arm,
    *,
    updates: int,
    seed: int,
    episodes: int = 256,
    env_kwargs: JsonObject | None = None,
    device: str | None = None,
    dtype: str = "float32",
) -> JsonObject:
    """Train one arm and measure it before and after; the returned record is what results files hold.

    ``answers`` are the texts of the first test problem, before and after.
    """
    agent = GRPO(
        arm.env_id,
        num_envs=128,
        seed=seed,
        device=device,
        dtype=dtype,
        env_kwargs=env_kwargs,
        **arm.options,
    )
    with closing(agent):
        before, answer_before = _measured(agent, episodes)
        for _ in (bar := tqdm(range(updates), desc=f"{arm.name:>6} RL", unit="update")):
            record = agent.update()
            bar.set_postfix({name: f"{record[name]:.2f}" for name in ("reward", "kl") if name in record})
        after, answer_after = _measured(agent, episodes)
    rollouts, rewards = ([record[name] for record in agent.history] for name in ("episodes", "reward"))
    reached = first_reached(rollouts, rewards, THRESHOLD, window=3)
    return {
        "arm": arm.name,
        "env_id": arm.env_id,
        "options": arm.options,
        "seed": seed,
        "fingerprint": agent.fingerprint,
        "before": before,
        "after": after,
        "answers": [answer_before, answer_after],
        "rollouts_to_threshold": None if reached is None else int(reached),
        "train_cpu_s": round(sum(record["cpu_s"] for record in agent.history), 1),
        "history": agent.history,
    }


def _measured(agent: GRPO, episodes: int) -> tuple[JsonObject, str]:
    """The mean reward on test problems with the probe's figures, and the text of the first episode."""
    rollout = agent.evaluate(episodes)
    figures = {_reward_key(agent.env_id): _mean_reward(rollout), **probe(agent, episodes=episodes).as_dict()}
    return figures, TEXT.of(rollout.infos[0])


def _reward_key(env_id: str) -> str:
    """The name of the mean reward in results: ``"format"`` on :data:`TASK`, as in its earlier results."""
    return "format" if env_id in (TASK, twin_id(TASK)) else "reward"


#: Arguments of an environment that the demo decides, and why.
_DECIDED = {
    "split": "the demo learns on training problems and is tested on test problems",
    "model": "the demo compares the bundled models",
    "tokenizer": "the demo compares the bundled models",
    "seed": "the demo takes --seeds, the number of seeds from 0",
}


def run_demo(
    out: Path,
    *,
    task: str = TASK,
    env_kwargs: JsonObject | None = None,
    updates: int = 50,
    seeds: Sequence[int] = (0,),
    episodes: int = 256,
    device: str | None = None,
    dtype: str = "float32",
) -> Path:
    """Run the demo, print its table and answers, and write ``results.json`` and ``curves.png`` into ``out``.

    Args:
        task: a latent-action id; its token-level twin is the other arm. The options of both arms were tuned
            on :data:`TASK`.
        env_kwargs: further arguments of both environments.
        updates: of each arm, 128 rollouts each.
        episodes: test episodes of each measured share.
        device, dtype: of the bundled models, as in ``gym.make``.

    Raises:
        TypeError, ValueError: for an id that does not take latent actions, and for arguments that the
            environment does not have or that the demo decides; nothing is written.
    """
    for name, reason in _DECIDED.items():
        if name in (env_kwargs or {}):
            raise ValueError(f"{reason}: leave {name} out")
    if spec_of(task).kwargs.get("actions") != "latent":
        raise ValueError(f"the demo takes a CoLA id of latent actions, e.g. {TASK}, got {task}")
    arms = [replace(arm, env_id=env_id) for arm, env_id in zip(ARMS, (task, twin_id(task)), strict=True)]
    loading: JsonObject = {"device": device, "dtype": dtype}
    for arm in arms:
        split = evaluation_split(spec_of(arm.env_id).kwargs["builder"])
        check_rows(arm.env_id, **{**(env_kwargs or {}), "split": split})
    threads = fitting_threads(make_backbone(level="latent", **loading).model)
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    goal = "<think>...</think><answer>...</answer>" if task == TASK else task
    print(
        f"Learning {goal} with GRPO, {updates} updates of 128 rollouts: the same loop over 64 latent actions "
        "and over tokens.\n"
    )
    with threads:
        floors = floor(task, env_kwargs, episodes=episodes, **loading)
        results: JsonObject = {**provenance(), "updates": updates, "floor": floors}
        results |= {"env_kwargs": env_kwargs or {}, "device": device or "cpu", "dtype": dtype}
        results["runs"] = []
        for seed in seeds:
            for arm in arms:
                results["runs"].append(
                    run_arm(
                        arm, updates=updates, seed=seed, episodes=episodes, env_kwargs=env_kwargs, **loading
                    )
                )
                write_json(out / "results.json", results, indent=1)  # what has ended survives an interrupt
    draw(results, out / "curves.png")
    print("\n" + table(results) + "\n")
    for run in results["runs"][: len(ARMS)]:
        for when, answer in zip(("before", "after"), run["answers"], strict=True):
            print(f"{run['arm']}, one answer {when}: {shown_line(answer)}")
    print(
        f"\nWrote {out / 'curves.png'} and {out / 'results.json'} in {time.perf_counter() - started:.0f} s."
    )
    return out


def table(results: JsonObject) -> str:
    """The results as a Markdown table."""
    reward = _reward_key(results["runs"][0]["env_id"])
    name_of_reward = "format reward" if reward == "format" else "reward"
    head = ["policy", name_of_reward, "arithmetic", "grammar", "held-out CE", "rollouts to .9", "CPU-s"]
    floors = results["floor"]
    rows = [
        ["uniform random codes", f"{floors['random_codes']:.3f}"],
        [f"best constant code ({floors['constant_code_is']})", f"{floors['constant_code']:.3f}"],
    ]
    rows = [row + [""] * (len(head) - len(row)) for row in rows]
    for run in results["runs"]:
        before, after = run["before"], run["after"]
        cells = [
            f"{before[key]:.3f} → {after[key]:.3f}"
            for key in (reward, "arithmetic", "grammar", "cross_entropy")
        ]
        reached = run["rollouts_to_threshold"] or f"not in {int(run['history'][-1]['episodes'])}"
        name = f"{run['arm']} GRPO, seed {run['seed']}"
        rows.append([name, *cells, reached, f"{run['train_cpu_s']:.0f}"])
    options = "; ".join(
        f"{run['arm']} " + ", ".join(f"{key}={value:g}" for key, value in run["options"].items())
        for run in results["runs"][: len(ARMS)]
    )
    note = (
        f"Shares of {results['runs'][0]['before']['episodes']} episodes on test problems, before → after "
        "RL. Arithmetic is graded whatever the form of the answer; cross-entropy is in nats per token "
        f"(latent: summed over the codes). Options: {options}."
    )
    return f"{markdown.table(head, rows)}\n\n{note}"


def draw(results: JsonObject, path: Path) -> None:
    """Draw learning curves, and the probe before and after RL, as a PNG."""
    from matplotlib.figure import Figure

    colours = {"latent": "#1b6ca8", "token": "#d1495b"}
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for run in results["runs"]:
        x = [record["episodes"] for record in run["history"]]
        y = [record["reward"] for record in run["history"]]
        label = run["arm"] + " actions" if run["seed"] == results["runs"][0]["seed"] else None
        left.plot(x, y, color=colours[run["arm"]], label=label, linewidth=1.8, alpha=0.9)
    floors = results["floor"]
    for name, style, words in (
        ("constant_code", "--", "best constant code"),
        ("random_codes", ":", "uniform random codes"),
    ):
        left.axhline(floors[name], color="grey", linestyle=style, linewidth=1.2, label=words)
    left.set(xlabel="rollouts", ylabel="mean reward (training)")
    left.set_ylim(min(-0.03, left.get_ylim()[0]), max(1.03, left.get_ylim()[1]))
    left.set_title(f"{results['runs'][0]['env_id']}: learning from its reward", fontsize=10)
    left.legend(frameon=False, loc="center right", fontsize=9)
    measures = ("arithmetic", "grammar")
    for offset, arm in enumerate(ARMS):
        runs = [run for run in results["runs"] if run["arm"] == arm.name]
        for place, measure in enumerate(measures):
            at = place * 3 + offset
            before = sum(run["before"][measure] for run in runs) / len(runs)
            after = sum(run["after"][measure] for run in runs) / len(runs)
            right.bar(at, before, width=0.85, fill=False, edgecolor=colours[arm.name], linestyle="--")
            right.bar(at, after, width=0.85, color=colours[arm.name], alpha=0.8)
            right.text(at, max(before, after) + 0.02, f"{after:.2f}", ha="center", fontsize=8)
    right.set_xticks([0.5, 3.5], measures)
    right.set(ylim=(0, 1.12), ylabel="share right on test problems")
    right.set_title("What else it can do: before (dashed) and after RL", fontsize=10)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
