"""The arms of a comparison: latent actions, token actions, and the controls.

All arms run the same GRPO over the same problems in the same order. They differ in what an action is, and in
which weights are trained. All stand on one base, but for two controls of what the latent-action stages
themselves give, whose base was trained further, on as many tokens as those stages read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.compare.pushforward import PushforwardGRPO
from benchmarks.compare.rank import RankBackbone
from cola_agents.decoding.backbones import TokenBackbone
from cola_agents.decoding.contract import PolicyBackbone, PolicySession
from cola_agents.decoding.loading import make_backbone
from cola_agents.model.families import Mask
from cola_agents.model.loading import load_config
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.sizes import GROWTH
from cola_agents.rl.acting_states import acting_states
from cola_agents.rl.actors import Actor, run_trunk
from cola_agents.rl.collecting import Act
from cola_agents.rl.grpo import GRPO, GRPOOptions
from cola_agents.rl.policy import TrainedPolicy
from cola_agents.rl.rollout import Rollout
from cola_envs.backbone import Level


class StackActor(Actor):
    """A policy stack on a frozen base's hidden states, whose output is added to them.

    The stack's share starts at 0, so that the policy starts as the base itself.

    Args:
        base: a plain language model, which is not trained.
        trunk: a decoder stack over hidden states; None for the base alone, as the reference.
    """

    def __init__(self, backbone: TokenBackbone, trunk: Any) -> None:
        weight = backbone.lm_head.weight
        head = nn.Linear(
            weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=weight.dtype
        )
        head.weight.data.copy_(weight)
        super().__init__(trunk, head, backbone.action_mask())
        self.out = nn.Linear(
            weight.shape[1], weight.shape[1], bias=False, device=weight.device, dtype=weight.dtype
        )
        nn.init.zeros_(self.out.weight)

    def follow(self, session: PolicySession) -> Act:
        if self.trunk is None:
            return session.last
        follower = session.follow(self.trunk)
        return lambda rows: session.last(rows) + self.out(follower.features(rows))

    def encode(
        self, ids: Tensor, hidden: Tensor, *, mask: Mask = None, positions: Tensor | None = None
    ) -> Tensor:
        if self.trunk is None:
            return hidden
        return hidden + self.out(run_trunk(self.trunk, mask, positions, inputs_embeds=hidden))

    def acting(self, rollout: Rollout) -> Tensor:
        if self.trunk is None:
            return rollout.hidden[rollout.mask]
        features = acting_states(self.trunk, rollout.hidden, rollout.ids, rollout.lengths, rollout.mask)
        if features is None:
            return super().acting(rollout)
        return rollout.hidden[rollout.mask] + self.out(features)


@dataclass(frozen=True)
class FrozenBaseOptions(GRPOOptions):
    """Options of :class:`FrozenBaseGRPO`.

    Attributes:
        policy_layers: decoder layers of the policy stack.
    """

    policy_layers: int = GROWTH["num_policy_layers"]


class FrozenBaseGRPO(GRPO):
    """GRPO over tokens that trains a policy stack and a head on a frozen base.

    The stack has the shape of the latent policy's and the head that of ``lm_head``. As at latent level the
    base is run while playing and never again.
    """

    options_class = FrozenBaseOptions
    options: FrozenBaseOptions

    def make_policy(self, given: PolicyBackbone) -> tuple[PolicyBackbone, TrainedPolicy]:
        assert isinstance(given, TokenBackbone)
        grown = {**GROWTH, "num_policy_layers": self.options.policy_layers}
        trunk = CoLAForCausalLM.from_base(given.model, seed=self.seed, **grown).policy_trunk.eval()
        actor, reference = StackActor(given, trunk), StackActor(given, None).requires_grad_(False)
        return given, TrainedPolicy(actor, reference, self.options, self.workers)


@dataclass(frozen=True)
class Arm:
    """One side of the comparison.

    Attributes:
        name: in result files.
        says: what it is, in a few words.
        level: ``"latent"`` or ``"token"``: of the environment's id.
        model: which model of a pre-trained seed it starts from: a folder that :mod:`benchmarks.models` names.
        agent: the class that learns.
        options: that are fixed; the learning rate and the KL's weight are searched.
        env_kwargs: of its environment.
        lrs: where the search for the learning rate begins.
    """

    name: str
    says: str
    level: Level
    model: str
    agent: type[GRPO] = GRPO
    options: dict[str, Any] = field(default_factory=dict)
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)

    def env_id(self, task: str) -> str:
        """The environment of a task at this arm's level."""
        return f"CoLA-{task}{'-Token' if self.level == 'token' else ''}-v0"

    def backbone(self, pretrained: Path, device: str | None = None, dtype: str = "float32") -> Any:
        """The model of a pre-trained seed (``benchmarks models``) under this arm's actions."""
        return _backbone(self.model, self.level, pretrained, device, dtype)

    def options_over(self, pretrained: Path) -> dict[str, Any]:
        """The fixed options over the models of a pre-trained seed."""
        if not issubclass(self.agent, FrozenBaseGRPO):
            return self.options
        return {**self.options, "policy_layers": load_config(pretrained / "cola").num_policy_layers}


_LATENT = (1e-3, 3e-3, 1e-2)
#: Rank of the adapters: about as many trained parameters as the latent policy of the bundled shape has.
LORA_RANK = 20

ARMS = {
    arm.name: arm
    for arm in (
        Arm("latent", "codes, argmax world model", "latent", "cola", lrs=_LATENT),
        Arm(
            "latent-sampled",
            "codes, world model sampled at temperature 1",
            "latent",
            "cola",
            env_kwargs={"world_temperature": 1.0},
            lrs=_LATENT,
        ),
        Arm("token", "tokens, all weights", "token", "base"),
        Arm(
            "token-frozen",
            "tokens, a fresh policy stack and the head on a frozen base",
            "token",
            "base",
            FrozenBaseGRPO,
            lrs=_LATENT,
        ),
        Arm(
            "token-lora",
            "tokens, LoRA (CPU time: through PEFT's layers, without our lean pass)",
            "token",
            "base",
            options={"lora_rank": LORA_RANK},
            lrs=_LATENT,
        ),
        Arm("token-truncated", "tokens, all weights, top 8", "token", "base", options={"top_k": 8}),
        Arm(
            "pushforward",
            "codes, learned by the log-probability of the token",
            "latent",
            "cola",
            PushforwardGRPO,
            lrs=_LATENT,
        ),
        Arm("rank", "the base's 64 likeliest tokens as codes", "latent", "rank", lrs=_LATENT),
        Arm("latent-16", "16 codes", "latent", "codes-16", lrs=_LATENT),
        Arm("latent-256", "256 codes", "latent", "codes-256", lrs=_LATENT),
        Arm("latent-span-4", "codes that last 4 tokens", "latent", "span-4", lrs=_LATENT),
        Arm("latent-span-8", "codes that last 8 tokens", "latent", "span-8", lrs=_LATENT),
        Arm(
            "latent-span-unsure",
            "codes that last until the base is unsure of the next token, at most 8",
            "latent",
            "span-8-unsure",
            lrs=_LATENT,
        ),
        Arm(
            "latent-fta",
            "codes after FTA-I, which trained the base further, on as many tokens as the stages read",
            "latent",
            "fta",
            lrs=_LATENT,
        ),
        Arm(
            "token-longer",
            "tokens, all weights, of the base after further training, on as many tokens as the stages read",
            "token",
            "longer",
        ),
    )
}


@cache
def _backbone(model: str, level: Level, pretrained: Path, device: str | None, dtype: str) -> Any:
    backbone = make_backbone(pretrained / model, level=level, device=device, dtype=dtype)
    return RankBackbone(backbone.model, backbone.tokenizer) if model == "rank" else backbone
