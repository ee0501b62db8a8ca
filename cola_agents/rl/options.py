"""The options that the bundled agents share, checked when they are built."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np

from cola_agents.model.sampling import Drawing


@dataclass(frozen=True)
class AgentOptions:
    """Options that every bundled agent has.

    Attributes:
        lr: Adam's learning rate; None for 1e-3 on latent and 3e-4 on token actions, which suit the bundled
            models. The official scripts use 5e-7 to 1e-5 at 8B.
        warmup: number of first gradient steps over which the learning rate rises linearly to ``lr``; None for
            0 on latent and 10 on token actions. Adam's first steps move every weight by about ``lr``, however
            small its gradient. Where all weights of a pre-trained model are trained, that can damage it.
        minibatch: episodes per gradient step; None for the whole batch.
        micro_batch: episodes in memory at once, for gradient accumulation; None for the whole minibatch.
        temperature, top_k, top_p: sampling options, as in :func:`cola_agents.model.sampling.sample`. The
            trained policy is this truncated and normalised distribution; its KL is to the initial policy at
            the same temperature, not truncated. An action that was taken is not truncated later.
        kl_coef: weight of the KL to the initial policy; with ``kl_target`` the initial weight.
        kl_in: ``"loss"`` adds the KL to the loss. ``"reward"`` subtracts it: PPO from each action's reward,
            GRPO and ReMax the sum over an action and all later ones from its advantage, RLOO the sum over the
            episode from the episode's reward.
        kl_estimator: in the loss ``"exact"``, the sum over all actions, or ``"k3"``, which reads the actions
            taken only. In the reward ``"k1"``, the log ratio of the action taken. None for ``"exact"`` or
            ``"k1"``.
        kl_target: the mean KL per action, whatever ``loss_mean`` is, to which ``kl_coef`` is adapted after
            every update; None for a constant ``kl_coef``.
        kl_gain: the largest relative change of ``kl_coef`` under ``kl_target`` is 0.2 times this; below 5,
            so that the coefficient stays above 0.
        entropy_coef: weight of the entropy bonus.
        whiten: shift and scale the advantages of a batch to mean 0 and variance 1.
        loss_mean: ``"token"`` averages over all actions of a minibatch, ``"sequence"`` over each episode's
            actions and then over the episodes.
        max_grad_norm: the largest gradient norm; larger ones are clipped.
        lora_rank: rank of low-rank adapters that are trained in place of the weights, in every linear layer
            of the policy's trunk; its head is frozen. None trains the weights.
        lora_alpha: the adapters' scale is ``lora_alpha / lora_rank``; None for twice the rank.
    """

    lr: float | None = None
    warmup: int | None = None
    minibatch: int | None = None
    micro_batch: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    kl_coef: float = 0.01
    kl_in: str = "loss"
    kl_estimator: str | None = None
    kl_target: float | None = None
    kl_gain: float = 0.1
    entropy_coef: float = 0.0
    whiten: bool = False
    loss_mean: str = "token"
    max_grad_norm: float = 1.0
    lora_rank: int | None = None
    lora_alpha: float | None = None

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):  # as Python's number, which JSON holds
                object.__setattr__(self, field.name, value := value.item())
            _check_type(field.name, value, hints[field.name])
        self._at_least(1, "minibatch", "micro_batch", "lora_rank", "top_k")
        self._positive("lr", "temperature", "top_p", "kl_target", "kl_gain", "max_grad_norm", "lora_alpha")
        if self.kl_gain >= 5:
            raise ValueError(
                f"kl_gain must be below 5, got {self.kl_gain}: kl_coef changes by up to 0.2 times it, and "
                "would reach 0"
            )
        if self.warmup is not None and self.warmup < 0:
            raise ValueError(f"warmup is a number of gradient steps, 0 or more, got {self.warmup}")
        for name in ("kl_coef", "entropy_coef"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        self._one_of("kl_in", "loss", "reward")
        self._one_of("kl_estimator", "exact", "k1", "k3", None)
        self._one_of("loss_mean", "token", "sequence")
        if self.kl_in == "loss" and self.estimator == "k1":
            raise ValueError(
                "kl_estimator='k1' has a gradient of mean zero in the loss: use 'k3' or 'exact' there, or "
                "kl_in='reward'"
            )
        if self.top_p > 1:
            raise ValueError(f"top_p is a share of at most 1, got {self.top_p}")
        if self.estimator == "k3" and (self.top_k is not None or self.top_p < 1):
            raise ValueError(
                "kl_estimator='k3' is biased under top_k or top_p, by the mass that is cut: use 'exact'"
            )
        if self.kl_in == "reward" and self.estimator != "k1":
            raise ValueError(
                f"kl_estimator={self.estimator!r} as a reward does not keep the policy near the initial one "
                "(the exact KL of a state does not depend on the action taken there, and k3's score-function "
                "gradient is not the KL's): use 'k1', or kl_in='loss'"
            )
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target multiplies kl_coef, and kl_coef=0 would stay 0: set kl_coef > 0")
        if self.lora_alpha is not None and self.lora_rank is None:
            raise ValueError(f"lora_alpha={self.lora_alpha} scales adapters: set lora_rank too")

    @property
    def drawing(self) -> Drawing:
        """The sampling options, as arguments of :func:`cola_agents.rl.rollout.collect`."""
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}

    @property
    def estimator(self) -> str:
        """The KL estimator: ``kl_estimator``, or the default for ``kl_in``."""
        return self.kl_estimator or ("exact" if self.kl_in == "loss" else "k1")

    @property
    def passes(self) -> int:
        """Passes over each batch."""
        return 1

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    def _positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")

    def _one_of(self, name: str, *allowed: str | None) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


@dataclass(frozen=True)
class ClippedOptions(AgentOptions):
    """Options of the algorithms with a clipped ratio, PPO and GRPO.

    Attributes:
        epochs: passes over each batch of episodes.
        clip: the ratio's clipping range.
        macro: number of consecutive actions that form one decision (a macro action), whether an action
            writes one token or several.
    """

    epochs: int = 1
    clip: float = 0.2
    macro: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "epochs", "macro")
        self._positive("clip")

    @property
    def passes(self) -> int:
        return self.epochs


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raise ValueError for a value of another type; an integer may stand for a float, a bool for neither."""
    kinds = get_args(hint) or (hint,)
    if value is None and NoneType in kinds:
        return
    if bool in kinds:
        good, wanted = isinstance(value, bool), "True or False"
    elif str in kinds:
        good, wanted = isinstance(value, str), "a string"
    elif int in kinds:
        good, wanted = isinstance(value, int) and not isinstance(value, bool), "an integer"
    else:
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        wanted = "a finite number"
    if not good:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


@dataclass(frozen=True)
class GroupOptions(AgentOptions):
    """Options of the algorithms that compare several answers to a problem, GRPO and RLOO.

    Attributes:
        prompts: problems per update.
        group_size: answers to each.
    """

    prompts: int = 16
    group_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("prompts", 1), ("group_size", 2)):
            if (count := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {count}")


def listed(options: type[AgentOptions]) -> str:
    """The options of an algorithm with their types and defaults, a line each."""
    return "\n".join(
        f"    {field.name}: {field.type} = {field.default!r}" for field in dataclasses.fields(options)
    )
