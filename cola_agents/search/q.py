"""The Q-function: action values, learned from recorded episodes by double DQN."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init
from tqdm import tqdm

from cola_agents.common.files import whole_folder
from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.contract import PolicySession
from cola_agents.decoding.session import last_states
from cola_agents.rl.rollout import Rollout
from cola_agents.search.config import Evaluation
from cola_agents.search.playout import Values
from cola_envs import jsonl

#: Fields of a saved Q-function's ``q.json``.
_DESCRIPTION = ("reads", "fingerprint", "gamma", "num_actions")


class QFunction(nn.Module):
    """Q(s, a) for every action a: a decoder and a bias-free head on its last hidden state.

    Build one with :meth:`over`; the head starts at zero, and so does every action value.

    Args:
        trunk: a Hugging Face decoder.
        head: linear layer D -> A, without bias.
        reads: input of the trunk: ``"hidden"``: the base LM's hidden states, which the policy reads too;
            ``"ids"``: tokens, as a language model of its own.
        fingerprint: the fingerprint of its backbone.
        gamma: discount factor per action in training.
        mask: the allowed actions, [A] bool; the value of the others is -inf. None where all are allowed.
    """

    _masked: Tensor | None

    def __init__(
        self,
        trunk: Any,
        head: nn.Linear,
        reads: Literal["hidden", "ids"],
        fingerprint: str,
        gamma: float = 0.99,
        mask: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        self.reads, self.fingerprint, self.gamma = reads, fingerprint, gamma
        masked = None if mask is None or mask.all() else torch.from_numpy(~mask).to(head.weight.device)
        self.register_buffer("_masked", masked, persistent=False)

    @classmethod
    def over(
        cls,
        backbone: LatentBackbone | TokenBackbone,
        *,
        trunk: Literal["policy", "model"] | None = None,
        gamma: float = 0.99,
    ) -> QFunction:
        """An untrained Q-function for a backbone's actions.

        Args:
            trunk: ``"policy"``: a copy of the cloned policy's stack on the frozen base's hidden states,
                cheap to train and to run (the default at latent level); ``"model"``: a copy of the
                language model, as in the official code (the only trunk at token level).
            gamma: discount factor per action; the default is the official code's.

        Raises:
            ValueError: for a policy trunk at token level, where there is no policy stack.
        """
        policy, head = backbone.initial_policy()
        trunk = trunk or ("model" if policy is None else "policy")
        if trunk == "policy" and policy is None:
            raise ValueError("at token level the policy is the language model itself: trunk must be 'model'")
        original: Any = policy if trunk == "policy" else backbone.base
        shape = head.in_features, int(backbone.action_space.n)
        q_head = skip_init(nn.Linear, *shape, bias=False, device=head.weight.device)
        nn.init.zeros_(q_head.weight)
        return cls(
            copy.deepcopy(original).requires_grad_(True),
            q_head,
            "hidden" if trunk == "policy" else "ids",
            backbone.fingerprint,
            gamma,
            backbone.action_mask(),
        )

    @property
    def num_actions(self) -> int:
        return self.head.out_features

    def forward(self, rollout: Rollout) -> Tensor:
        """Action values at every position of whole episodes, [N, T, A] float32."""
        return self._values(self._states(rollout))

    def at(self, rollout: Rollout, positions: Tensor) -> Tensor:
        """Action values at some positions [N, M] of whole episodes, [N, M, A] float32."""
        states = self._states(rollout)
        # Positions are selected before the head, which is most of the work where A is a vocabulary.
        return self._values(states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1])))

    def _states(self, rollout: Rollout) -> Tensor:
        inputs = {"inputs_embeds": rollout.hidden} if self.reads == "hidden" else {"input_ids": rollout.ids}
        states: Tensor = self.trunk(**inputs, use_cache=False).last_hidden_state
        return states

    def _values(self, states: Tensor) -> Tensor:
        values: Tensor = self.head(states.to(self.head.weight.dtype)).float()
        return values if self._masked is None else values.masked_fill(self._masked, float("-inf"))

    def attach(self, session: PolicySession) -> Values:
        """Return a function from the rows of a session to their action values [B, A].

        Raises:
            ValueError: where the session's actions are not those of the Q-function.
        """
        features: Values
        if self.reads == "hidden":
            features = session.follow(self.trunk).features
        else:
            features = last_states(self.trunk, session)
        threads = fitting_threads(self)

        def values(rows: Sequence[int]) -> Tensor:
            with torch.no_grad(), threads:
                return self._values(features(rows))

        return values

    def save(self, path: str | Path) -> None:
        """Save safetensors and a JSON description to a folder that is absent or empty.

        Raises:
            FileExistsError: if the folder is not empty.
        """
        description = {name: getattr(self, name) for name in _DESCRIPTION}
        with whole_folder(Path(path)) as folder:
            state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
            save_file(state, folder / "q.safetensors")
            (folder / "q.json").write_text(json.dumps(description, indent=2))

    @classmethod
    def load(cls, path: str | Path, backbone: LatentBackbone | TokenBackbone) -> QFunction:
        """Load a Q-function that :meth:`save` wrote.

        Raises:
            FileNotFoundError: where the folder holds no Q-function.
            ValueError: for a Q-function of another model or another number of actions.
        """
        file = Path(path) / "q.json"
        if not file.is_file():
            raise FileNotFoundError(f"{path} holds no Q-function: there is no q.json in it")
        description = jsonl.read_object(file, *_DESCRIPTION)
        if description["num_actions"] != int(backbone.action_space.n):
            raise ValueError(
                f"{path} has {description['num_actions']} actions and this model has "
                f"{int(backbone.action_space.n)}"
            )
        if description["fingerprint"] != backbone.fingerprint:
            raise ValueError(
                f"{path} was trained over a model with fingerprint {description['fingerprint'][:12]}, and "
                f"this one has {backbone.fingerprint[:12]}"
            )
        trunk: Literal["policy", "model"] = "policy" if description["reads"] == "hidden" else "model"
        q = cls.over(backbone, trunk=trunk, gamma=description["gamma"])
        q.load_state_dict(load_file(Path(path) / "q.safetensors"))
        return q.eval()


@dataclass(frozen=True)
class QConfig:
    """Options of :func:`train_q`.

    Attributes:
        steps: optimiser steps.
        batch_size: episodes per step (official: 256).
        lr: AdamW's learning rate; warmed up over 3 % of the steps, then constant (official: 5e-6 for an 8B
            model).
        target_every: steps between two copies of the weights to the target network (official: 50 micro
            steps).
        clip: the largest gradient norm.
        check_every: steps between two evaluations on the held-out episodes, if there are any.
        seed: seed of the order of the episodes.
    """

    steps: int = 1000
    batch_size: int = 64
    lr: float = 1e-3
    target_every: int = 50
    clip: float = 1.0
    check_every: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch_size, self.target_every, self.check_every)
        if min(counts) < 1 or not (self.lr > 0 and self.clip > 0):
            raise ValueError(
                f"steps, batch_size, target_every, check_every >= 1 and lr, clip > 0 are needed, got {self}"
            )


def train_q(
    q: QFunction,
    rollout: Rollout,
    config: QConfig | None = None,
    *,
    held_out: Rollout | None = None,
    watch: Callable[[dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train a Q-function on recorded episodes; returns a log record per step.

    The loss is the mean squared difference from the double-DQN target over the actions taken. The next state
    is that of the row's next action, so that text of the task in between is not discounted; the official code
    takes that of the next token. The last action of a truncated episode has no known next state and is left
    out.

    Args:
        q: trained in place.
        rollout: N episodes; with their hidden states where the trunk reads those.
        held_out: episodes of other problems, several of each (:func:`split_problems`). Every ``check_every``
            steps and after the last step the record's ``held_out`` is :func:`within_problems` of them, and
            the weights with the highest figure are kept: a Q-function soon separates easy problems from hard
            ones, and later overfits. The maximum of several evaluations is biased upwards: that of an
            uninformative Q-function exceeds .5 too.
        watch: called with every record.

    Raises:
        ValueError: where no held-out problem has answers with different rewards.
        FloatingPointError: when the loss is not finite, naming the step.

    Source: van Hasselt et al. 2016 (arXiv 1509.06461); CoLA's Q-function.
    """
    config = config or QConfig()
    with fitting_threads(q):
        if held_out is not None and within_problems(q, held_out) is None:
            raise ValueError(
                "no held-out problem has two answers with different rewards, which the held-out figure "
                "compares: hold out more problems, or record more answers to each"
            )
        best, best_weights = -1.0, None
        target = copy.deepcopy(q).requires_grad_(False)
        optimiser = torch.optim.AdamW(q.parameters(), lr=config.lr, weight_decay=0.0)
        warmup = max(1, round(0.03 * config.steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / warmup))
        rng = np.random.default_rng(config.seed)
        size = min(config.batch_size, len(rollout))
        records = []
        for step in tqdm(range(1, config.steps + 1), desc="q", unit="step", mininterval=2.0):
            batch = rollout.select(rng.choice(len(rollout), size=size, replace=False))
            loss, mean_value = _td_loss(q, target, batch)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"q: loss is {loss.item()} at step {step}; lower lr={config.lr}")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(q.parameters(), config.clip)
            optimiser.step()
            schedule.step()
            if step % config.target_every == 0:
                target.load_state_dict(q.state_dict())
            record = {"step": step, "loss": loss.item(), "q": mean_value}
            if held_out is not None and (step % config.check_every == 0 or step == config.steps):
                record["held_out"] = within_problems(q, held_out) or 0.0
                if record["held_out"] > best:
                    best, best_weights = record["held_out"], copy.deepcopy(q.state_dict())
            records.append(record)
            if watch:
                watch(record)
        if best_weights is not None:
            q.load_state_dict(best_weights)
        q.eval()
        return records


def _td_loss(q: QFunction, target: QFunction, rollout: Rollout) -> tuple[Tensor, float]:
    """The mean squared TD error of episodes, and the mean value of their actions."""
    positions, rewards, mask, has_target = acting(rollout)
    values = q.at(rollout, positions)
    with torch.no_grad():
        targets = episode_targets(rewards, values, target.at(rollout, positions), mask, gamma=q.gamma)
    taken = values.gather(-1, rollout.actions.gather(1, positions)[..., None]).squeeze(-1)
    errors = functional.mse_loss(taken, targets, reduction="none")
    loss = (errors * has_target).sum() / has_target.sum().clamp_min(1)
    return loss, taken[mask].mean().item()


@torch.no_grad()
def within_problems(q: QFunction, rollout: Rollout, batch_size: int = 256) -> float | None:
    """How well Q ranks the answers to the same problem: 1 is perfect, .5 is chance.

    The mean over problems (identified by their prompts) of the :func:`concordance` between Q of each
    episode's last action and the episode's reward; None where no problem has answers of different rewards.
    """
    last_values = []
    for start in range(0, len(rollout), batch_size):
        batch = rollout.select(np.arange(start, min(start + batch_size, len(rollout))))
        positions, _, mask, _ = acting(batch)
        last = positions.gather(1, mask.sum(1, keepdim=True) - 1)
        last_values.append(q.at(batch, last)[:, 0].gather(1, batch.actions.gather(1, last))[:, 0])
    values, rewards = torch.cat(last_values).cpu().numpy(), rollout.episode_rewards.cpu().numpy()
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
    if not 0 < count < total:
        raise ValueError(f"of {total} recorded problems 1 to {total - 1} can be held out, got {count}")
    held_out = problems >= total - count
    return rollout.select(np.flatnonzero(~held_out)), rollout.select(np.flatnonzero(held_out))


def _problems(rollout: Rollout) -> np.ndarray:
    """The problem number of each episode [N], by first appearance; a prompt identifies a problem."""
    numbers: dict[tuple[int, ...], int] = {}
    starts = rollout.mask.int().argmax(1).tolist()
    prompts = [tuple(ids[: start + 1]) for ids, start in zip(rollout.ids.tolist(), starts, strict=True)]
    return np.array([numbers.setdefault(prompt, len(numbers)) for prompt in prompts])


def acting(rollout: Rollout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The positions of episodes at which an action is taken.

    Returns:
        The positions [N, M], padded with 0; the rewards of their actions [N, M]; a mask [N, M] bool, False at
        padding; and a mask [N, M] bool, False also where the next state is unknown.
    """
    counts = rollout.mask.sum(1)
    mask = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]
    positions = torch.zeros(mask.shape, dtype=torch.long, device=counts.device)
    positions[mask] = rollout.mask.nonzero()[:, 1]
    rewards = rollout.rewards.gather(1, positions) * mask
    has_target = mask.clone()
    truncated = ~rollout.terminated
    has_target[truncated, counts[truncated] - 1] = False
    return positions, rewards, mask, has_target


class QEvaluator:
    """Priors from a policy, values from a Q-function: the value of a state is that of its best action.

    Args:
        logits: maps rows to the policy's action logits [B, A].
        q: maps rows to action values [B, A]; attached to the same session.
        width: the best action is chosen among this many likeliest ones; None for all. Q is unreliable for
            actions that no recorded episode took.
    """

    def __init__(self, logits: Values, q: Values, width: int | None = None) -> None:
        self.logits, self.q, self.width = logits, q, width

    @torch.no_grad()
    def __call__(self, rows: Sequence[int], /) -> Evaluation:
        logits, values = self.logits(rows), self.q(rows)
        prior = torch.softmax(logits.double(), -1)
        candidates = values[:, : logits.shape[1]]
        if self.width is not None:
            likeliest = logits.topk(min(self.width, logits.shape[1]), dim=-1).indices
            candidates = candidates.gather(1, likeliest)
        best = candidates.amax(-1)
        return Evaluation(prior.cpu().numpy(), best.double().cpu().numpy(), values.double().cpu().numpy())


def td_target(rewards: Tensor, online: Tensor, target: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Double-Q targets: ``y_t = r_t + gamma Q_target(s_t+1, argmax_a Q_online(s_t+1, a)) mask_t+1``.

    Args:
        rewards: [B, T], for the action at t.
        online, target: action values of the two networks, [B, T, A].
        mask: [B, T], 1 where an action was taken; the value after the last one is 0.

    Returns:
        [B, T - 1]; entries where ``mask`` is 0 are arbitrary.

    Source: van Hasselt et al. 2016 (arXiv 1509.06461), as CoLA's Q-function uses it.
    """
    best = online[:, 1:].argmax(-1, keepdim=True)
    next_values = target[:, 1:].gather(-1, best).squeeze(-1)
    return rewards[:, :-1] + gamma * next_values * mask[:, 1:].to(next_values)


def episode_targets(rewards: Tensor, online: Tensor, target: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """:func:`td_target` of whole episodes, [B, T]: the target of a last action is its reward."""
    online, target = (functional.pad(values, (0, 0, 0, 1)) for values in (online, target))
    rewards, mask = (functional.pad(each, (0, 1)) for each in (rewards, mask))
    return td_target(rewards, online, target, mask, gamma=gamma)


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
