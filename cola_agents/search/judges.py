"""Judges: how good a finished episode is, estimated without the task's rewards.

A search with estimated rewards needs a value for every ending. A Q-function gives one, that of the last
action; the judges here read the whole answer instead. Each is a function of rows whose episodes are over,
called before the rows change.

Shapes: B rows, N episodes, T tokens, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init
from torch.nn.utils.rnn import pad_sequence

from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.rl.actors import Actor, reference_actor
from cola_agents.rl.collecting import policy_session
from cola_agents.rl.rollout import Rollout
from cola_agents.search.fitting import fit
from cola_agents.search.playout import Judge
from cola_agents.search.trunk import Kind, Trunk, copied, read_description
from cola_agents.train.options import FitConfig
from cola_envs.episodes import Episodes

_DESCRIPTION = ("reads", "fingerprint")
#: How a saved one is read: the name of its files, what it is called, its fields.
SAVED = ("outcome", "outcome model", _DESCRIPTION)


def likelihood_judge(
    episodes: Episodes, under: Literal["policy", "base"] | Actor = "policy", *, power: float = 1.0
) -> Judge:
    """A judge by likelihood: ``exp(log p / n ** power)`` of an answer of n actions with probability p.

    Args:
        episodes: the environments of the rows.
        under: ``"policy"``: the model's own policy, or a trained one (an agent's ``actor``): the n actions of
            the episode; ``"base"``: the base LM without codes: the n tokens that the agent wrote. For the
            episodes of a token agent, whose base is what it trains, give its ``actor``, or
            ``agent.policy.reference`` for the model before training.
        power: of the length: 1 gives the geometric mean of the probabilities, so that answers of all lengths
            compare; 0 the probability itself, which prefers short answers.

    Raises:
        ValueError: for a negative power, or an unknown ``under``.

    Source: length normalisation of Wu et al. 2016 (arXiv 1609.08144), without its constant.
    """
    number = isinstance(power, (int, float)) and not isinstance(power, bool)
    if not (number and math.isfinite(power) and power >= 0):
        raise ValueError(f"the power of the length must be finite and not negative, got {power!r}")
    if not isinstance(under, Actor) and under not in ("policy", "base"):
        raise ValueError(f"under must be 'policy', 'base' or an agent's actor, got {under!r}")
    session = policy_session(episodes)
    backbone: Any = episodes.backbone
    actor = None if under == "base" else reference_actor(backbone) if under == "policy" else under
    head = backbone.lm_head if actor is None else actor.logits
    threads = fitting_threads(backbone.model if actor is None else actor)

    @torch.no_grad()
    def judge(rows: Sequence[int]) -> Tensor:
        with threads:
            states = pad_sequence([session.states(row) for row in rows], batch_first=True)
            if actor is not None:
                ids = [torch.tensor(episodes.tokens(row), device=states.device) for row in rows]
                states = actor.encode(pad_sequence(ids, batch_first=True), states)
            return torch.stack([value(row, states[i]) for i, row in enumerate(rows)])

    def value(row: int, states: Tensor) -> Tensor:
        positions, chosen = _choices(episodes, row, of_tokens=actor is None)
        log_probs = head(states[positions]).float().log_softmax(-1)
        taken = log_probs.gather(-1, torch.tensor(chosen, device=log_probs.device)[:, None])
        return torch.exp(taken.double().sum() / float(len(chosen)) ** power)

    return judge


def _choices(episodes: Episodes, row: int, of_tokens: bool) -> tuple[list[int], list[int]]:
    """The positions at which the agent's actions, or its tokens, were chosen, and what was chosen."""
    origins, tokens = episodes.origins(row), episodes.tokens(row)
    own = [at for at, origin in enumerate(origins) if origin >= 0]
    if of_tokens:
        return [at - 1 for at in own], [tokens[at] for at in own]
    first = {origins[at]: at for at in reversed(own)}
    actions = episodes.actions(row)
    return [first[number] - 1 for number in range(len(actions))], list(actions)


class OutcomeModel(Trunk):
    """The probability that a finished answer is right: a decoder and one linear unit at its last token.

    Build one with :meth:`over` and train it with :func:`train_outcome`.

    Args:
        trunk, reads, fingerprint: as in :class:`~cola_agents.search.trunk.Trunk`.
        head: linear layer D -> 1.

    Source: the verifiers of Cobbe et al. 2021 (arXiv 2110.14168), trained on the last token alone.
    """

    def __init__(
        self, trunk: Any, head: nn.Linear, reads: Literal["hidden", "ids"], fingerprint: str
    ) -> None:
        super().__init__(trunk, reads, fingerprint)
        self.head = head

    @classmethod
    def over(cls, backbone: LatentBackbone | TokenBackbone, *, trunk: Kind | None = None) -> OutcomeModel:
        """An untrained outcome model, which gives .5 to every answer.

        Args:
            trunk: ``"policy"``: a copy of the cloned policy's stack on the frozen base's hidden states (the
                default at latent level); ``"model"``: a copy of the language model (the only trunk at token
                level).

        Raises:
            ValueError: for a policy trunk at token level, where there is no policy stack.
        """
        decoder, reads = copied(backbone, trunk)
        _, action_head = backbone.initial_policy()
        head = skip_init(nn.Linear, action_head.in_features, 1, device=action_head.weight.device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return cls(decoder, head, reads, backbone.fingerprint)

    def forward(self, rollout: Rollout) -> Tensor:
        """Log-odds that each of N episodes is right, [N] float32."""
        states = self.states(rollout)
        return self._log_odds(states[torch.arange(len(states), device=states.device), rollout.lengths - 1])

    def _log_odds(self, states: Tensor) -> Tensor:
        values: Tensor = self.head(states.float()).squeeze(-1)
        return values

    def judge(self, episodes: Episodes) -> Judge:
        """A judge of the rows of ``episodes``: the probability that the answer is right.

        Raises:
            ValueError: for the episodes of another model.
        """
        if episodes.backbone.fingerprint != self.fingerprint:
            raise ValueError("the outcome model was trained over another model than that of the environment")
        features, threads = self.follow(policy_session(episodes)), fitting_threads(self)

        def judge(rows: Sequence[int]) -> Tensor:
            with torch.no_grad(), threads:
                return torch.sigmoid(self._log_odds(features(rows)))

        return judge

    def save(self, path: str | Path) -> None:
        """Save safetensors and a JSON description to a folder that is absent or empty.

        Raises:
            FileExistsError: if the folder is not empty.
        """
        self.save_files(path, "outcome", _DESCRIPTION)

    @classmethod
    def load(cls, path: str | Path, backbone: LatentBackbone | TokenBackbone) -> OutcomeModel:
        """Load an outcome model that :meth:`save` wrote.

        Raises:
            FileNotFoundError: where the folder holds none.
            DamagedError: a ValueError, for files that differ from what :meth:`save` wrote.
            ValueError: for one that was trained over another model.
        """
        description = read_description(path, *SAVED, backbone)
        model = cls.over(backbone, trunk="policy" if description["reads"] == "hidden" else "model")
        model.load_weights(path, "outcome")
        return model.eval()


def check_answers(rewards: np.ndarray) -> None:
    """Raise ValueError unless some of the recorded answers are paid and some not; ``rewards`` is [N]."""
    number = int((rewards > 0).sum())
    if number in (0, len(rewards)):
        raise ValueError(
            f"{number} of {len(rewards)} recorded answers earn a reward, so that nothing tells good from "
            "bad ones: record more answers, or answers to problems that are solved at times"
        )


def train_outcome(
    model: OutcomeModel,
    rollout: Rollout,
    config: FitConfig | None = None,
    *,
    held_out: Rollout | None = None,
) -> list[dict[str, float]]:
    """Train an outcome model on recorded episodes; returns a log record per step.

    The loss is the cross-entropy of the probability with whether the episode's rewards sum to more than 0.

    Args:
        model: trained in place.
        rollout: N episodes; with their hidden states where the trunk reads those.
        held_out: as in :func:`~cola_agents.search.fitting.fit`.

    Raises:
        ValueError: where all answers are right, or all are wrong.
        ValueError, FloatingPointError: as :func:`~cola_agents.search.fitting.fit`.
    """
    check_answers(rollout.episode_rewards.cpu().numpy())

    def loss(batch: Rollout) -> tuple[Tensor, dict[str, float]]:
        right = (batch.episode_rewards > 0).float()
        error = functional.binary_cross_entropy_with_logits(model(batch), right)
        return error, {"right": right.mean().item()}

    return fit(model, rollout, config or FitConfig(), loss, model, held_out=held_out, name="outcome")
