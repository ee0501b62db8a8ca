"""Training on recorded episodes: the loop of Q-functions and outcome models, and problems held out."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from cola_agents.common.threads import fitting_threads
from cola_agents.rl.optimiser import fit_batches
from cola_agents.rl.rollout import Rollout
from cola_agents.train.options import FitConfig


def fit(
    model: nn.Module,
    rollout: Rollout,
    config: FitConfig,
    loss: Callable[[Rollout], tuple[Tensor, dict[str, float]]],
    ending_values: Callable[[Rollout], Tensor],
    *,
    held_out: Rollout | None = None,
    after_step: Callable[[int], None] | None = None,
    name: str,
) -> list[dict[str, float]]:
    """Train a model on recorded episodes; returns a log record per step.

    Weights of a lower precision are trained with float32 twins (:class:`~cola_agents.rl.optimiser.Adam32`).

    Args:
        model: trained in place.
        rollout: N episodes.
        loss: maps a batch of episodes to the loss and further figures of the record.
        ending_values: the model's value of the end of each episode, [N].
        held_out: episodes of other problems, several of each (:func:`split_problems`). Every ``check_every``
            steps and after the last step the record's ``held_out`` is :func:`within_problems` of them, and
            the weights with the highest figure are kept: a model soon separates easy problems from hard
            ones, and later overfits. The maximum of several evaluations is biased upwards: that of an
            uninformative model exceeds .5 too.
        after_step: called with the number of each step, after it.
        name: of the bar and of errors.

    Raises:
        ValueError: where no held-out problem has answers with different rewards.
        FloatingPointError: when the loss is not finite, naming the step, or the gradient is not.
    """

    def ordering(episodes: Rollout) -> float | None:
        return within_problems(ending_values, episodes)

    with fitting_threads(model):
        if held_out is not None and ordering(held_out) is None:
            raise ValueError(
                "no held-out problem has two answers with different rewards, which the held-out figure "
                "compares: hold out more problems, or record more answers to each"
            )
        best, best_weights = -1.0, None
        rng, size = np.random.default_rng(config.seed), min(config.batch_size, len(rollout))
        batches = (
            rollout.select(rng.choice(len(rollout), size=size, replace=False)) for _ in range(config.steps)
        )
        records = []
        for record in fit_batches(
            model,
            batches,
            config.steps,
            loss,
            lr=config.lr,
            betas=(0.9, 0.999),
            clip=config.clip,
            name=name,
        ):
            step = int(record["step"])
            if after_step is not None:
                after_step(step)
            if held_out is not None and (step % config.check_every == 0 or step == config.steps):
                record["held_out"] = ordering(held_out) or 0.0
                if record["held_out"] > best:
                    best, best_weights = record["held_out"], copy.deepcopy(model.state_dict())
            records.append(record)
        if best_weights is not None:
            model.load_state_dict(best_weights)
        model.eval()
        return records


@torch.no_grad()
def within_problems(
    ending_values: Callable[[Rollout], Tensor], rollout: Rollout, batch_size: int = 256
) -> float | None:
    """How well values rank the answers to the same problem: 1 is perfect, .5 is chance.

    The mean over problems (identified by their prompts) of the :func:`concordance` between the values of
    episodes and their rewards; None where no problem has answers of different rewards.

    Args:
        ending_values: the value of the end of each of N episodes, [N].
        batch_size: episodes that are valued at once.
    """
    parts = []
    for start in range(0, len(rollout), batch_size):
        parts.append(ending_values(rollout.select(np.arange(start, min(start + batch_size, len(rollout))))))
    values, rewards = torch.cat(parts).cpu().numpy(), rollout.episode_rewards.cpu().numpy()
    problems = _problems(rollout)
    masks = [problems == problem for problem in range(problems.max() + 1)]
    figures = [figure for mask in masks if (figure := concordance(values[mask], rewards[mask])) is not None]
    return float(np.mean(figures)) if figures else None


def split_problems(rollout: Rollout, count: int) -> tuple[Rollout, Rollout]:
    """Split episodes into those to train on and those of the last ``count`` problems, which are held out.

    Raises:
        ValueError: where either part would be empty.
    """
    problems = _problems(rollout)
    total = int(problems.max()) + 1
    check_held_out(total, count)
    held_out = problems >= total - count
    return rollout.select(np.flatnonzero(~held_out)), rollout.select(np.flatnonzero(held_out))


def check_held_out(total: int, count: int) -> None:
    """Raise ValueError unless some of ``total`` problems are left when ``count`` of them are held out."""
    if total < 2:
        raise ValueError("of 1 recorded problem none can be held out: record more, or hold out none")
    if not 0 < count < total:
        raise ValueError(f"of {total} recorded problems 1 to {total - 1} can be held out, got {count}")


def _problems(rollout: Rollout) -> np.ndarray:
    """The problem number of each episode [N], by first appearance; a prompt identifies a problem."""
    numbers: dict[tuple[int, ...], int] = {}
    return np.array([numbers.setdefault(tuple(prompt), len(numbers)) for prompt in rollout.prompts])


def concordance(values: np.ndarray, rewards: np.ndarray) -> float | None:
    """The probability that of two episodes with different rewards the better one has the higher value.

    Equal values count half; .5 is chance. For rewards of 0 and 1 it is the area under the ROC curve.

    Args:
        values: value of each episode, [N].
        rewards: reward of each episode, [N].

    Returns:
        None where all rewards are equal.
    """
    above, pairs = 0.0, 0
    for reward in np.unique(rewards):
        lower, higher = np.sort(values[rewards == reward]), values[rewards > reward]
        above += sum(np.searchsorted(lower, higher, side).sum() / 2 for side in ("left", "right"))
        pairs += len(lower) * len(higher)
    return float(above / pairs) if pairs else None
