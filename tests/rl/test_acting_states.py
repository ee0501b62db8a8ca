"""States where actions were taken are those of the whole stack, and so is their gradient."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Gemma2Config

from cola_agents.model.lora import adapters_off, add_adapters
from cola_agents.rl import shared_prompts as sharing
from cola_agents.rl.acting_states import acting_states
from cola_agents.rl.actors import make_actor
from cola_agents.rl.collecting import collect
from cola_agents.rl.shared_prompts import shared_prompts
from cola_agents.rl.update import in_parts
from tests.decoding.test_lean import SHAPES, stack_of
from tests.rl.test_rollout import Talking, episodes_of

LENGTHS = torch.tensor([9, 3, 12, 7])
#: No two of the episodes share a token.
IDS = torch.arange(48).view(4, 12)


def some_episodes(size: int = 32) -> tuple[Tensor, Tensor]:
    """States [4, 12, D], zeros behind the episodes, and where actions were taken, also at an end."""
    source = torch.Generator().manual_seed(2)
    states = torch.randn(4, 12, size, generator=source)
    mask = torch.rand(4, 12, generator=source) < 0.4
    mask[torch.arange(4), LENGTHS - 1] = True
    behind = torch.arange(12) >= LENGTHS[:, None]
    return states.masked_fill(behind[..., None], 0.0), mask & ~behind


def gradients(stack: Any, acting: Tensor) -> dict[str, Tensor]:
    stack.zero_grad()
    (acting * torch.linspace(-1, 1, acting.numel()).view_as(acting)).sum().backward()
    return {name: p.grad.clone() for name, p in stack.named_parameters() if p.grad is not None}


def whole(stack: Any, states: Tensor, mask: Tensor) -> Tensor:
    found: Tensor = stack(inputs_embeds=states, use_cache=False).last_hidden_state[mask]
    return found


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_states_and_gradients_are_the_whole_stacks(shape: str, layers: int) -> None:
    config, changed = SHAPES[shape]
    stack = stack_of(config, **{**changed, "num_hidden_layers": layers}).double()
    states, mask = some_episodes()
    ours, theirs = states.double().requires_grad_(), states.double().requires_grad_()
    acting = acting_states(stack, ours, IDS, LENGTHS, mask)
    assert acting is not None
    expected = whole(stack, theirs, mask)
    torch.testing.assert_close(acting, expected, atol=1e-9, rtol=0)
    found, wanted = gradients(stack, acting), gradients(stack, expected)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-8, rtol=1e-8)


def two_groups(size: int = 32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, ids, lengths and acting positions of five episodes over two prompts of 7 and of 6 tokens.

    They come in mixed order, one of them acts at its prompt's end alone, and one has other tokens between its
    actions, as an engine's answer.
    """
    source = torch.Generator().manual_seed(3)
    lengths = torch.tensor([10, 8, 7, 12, 6])
    prompts = [0, 1, 0, 0, 1]
    ids = torch.randint(10, 60, (5, 12), generator=source)
    mask = torch.zeros(5, 12, dtype=torch.bool)
    for n, prompt in enumerate(prompts):
        end = (7, 6)[prompt]
        ids[n, :end] = torch.arange(end) + 100 * prompt
        mask[n, end - 1 : lengths[n]] = True
    mask[3, 8:10] = False
    states = torch.randn(200, size, generator=source)[ids]
    behind = torch.arange(12) >= lengths[:, None]
    return states.masked_fill(behind[..., None], 0.0), ids, lengths, mask


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_that_episodes_share_is_computed_once_with_the_same_states_and_gradients(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, changed = SHAPES[shape]
    stack = stack_of(config, **{**changed, "num_hidden_layers": 3}).double()
    states, ids, lengths, mask = two_groups()
    ours, theirs = states.double().requires_grad_(), states.double().requires_grad_()
    monkeypatch.setattr(sharing, "WORTH", 1.0)
    read = []
    forward = type(stack.layers[0]).forward
    monkeypatch.setattr(
        type(stack.layers[0]),
        "forward",
        lambda self, x, *args, **kwargs: read.append(x.shape[:2]) or forward(self, x, *args, **kwargs),
    )
    acting = acting_states(stack, ours, ids, lengths, mask)
    # 7 + 3 + 0 + 5 tokens, and 6 + 2 + 0, in place of five rows of 12.
    assert read == 2 * [(2, 15)]
    expected = whole(stack, theirs, mask)
    torch.testing.assert_close(acting, expected, atol=1e-9, rtol=0)
    found, wanted = gradients(stack, acting), gradients(stack, expected)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():  # norms are computed in float32
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5)


def test_adapters_learn_the_same_behind_a_shared_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_of(num_hidden_layers=3).requires_grad_(False)
    add_adapters(stack, 4, None, seed=0)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if "lora_B" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    states, ids, lengths, mask = two_groups()
    found = []
    for worth in (0.0, 1.0):
        monkeypatch.setattr(sharing, "WORTH", worth)
        found.append(gradients(stack, acting_states(stack, states, ids, lengths, mask)))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-4, rtol=1e-4)


def answers_of(prompts: list[int], answers: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, lengths and mask of episodes; prompts of one length are the same prompt."""
    lengths = torch.tensor(prompts) + torch.tensor(answers)
    ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    at = torch.arange(ids.shape[1])
    for n, prompt in enumerate(prompts):
        ids[n, :prompt] = prompt
    mask = (at >= torch.tensor(prompts)[:, None] - 1) & (at < lengths[:, None])
    return ids, lengths, mask


def test_prompts_are_shared_only_where_that_costs_at_most_half() -> None:
    few, wide = answers_of([200] * 8, [40] * 8), answers_of([300] * 32, [280] * 32)
    assert shared_prompts(*few, 576) is not None
    assert shared_prompts(*answers_of([20] * 8, [40] * 8), 576) is None  # answers longer than prompts
    # One row of 9,260 tokens: its attention is more than what is saved.
    assert shared_prompts(*wide, 64) is None
    # All groups are padded to the one with long answers.
    skewed = answers_of([200 + g for g in range(8) for _ in range(8)], [500] * 8 + [5] * 56)
    assert shared_prompts(*skewed, 576) is None
    assert shared_prompts(IDS, LENGTHS, some_episodes()[1], 576) is None


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan")])
def test_adapters_of_no_scale_are_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be positive"):
        add_adapters(stack_of(), 4, alpha, seed=0)


def test_adapters_are_part_of_it_and_can_be_switched_off() -> None:
    stack = stack_of().requires_grad_(False)
    add_adapters(stack, 4, None, seed=0)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if "lora_B" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    states, mask = some_episodes()
    acting, expected = acting_states(stack, states, IDS, LENGTHS, mask), whole(stack, states, mask)
    torch.testing.assert_close(acting, expected, atol=1e-5, rtol=0)
    found = gradients(stack, acting)
    for name, gradient in gradients(stack, expected).items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4)
    with adapters_off(stack):
        off = acting_states(stack, states, IDS, LENGTHS, mask)
        torch.testing.assert_close(off, whole(stack, states, mask), atol=1e-5, rtol=0)
    assert not torch.allclose(acting, off, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda stack: stack.train(),
        lambda stack: stack.register_forward_hook(lambda *_: None),
        lambda stack: stack.layers[1].self_attn.register_forward_hook(lambda *_: None),
        lambda stack: stack.set_attn_implementation("eager"),
    ],
    ids=["training", "hook", "layer hook", "eager attention"],
)
def test_a_stack_that_is_not_plain_runs_as_it_is(change: Any) -> None:
    stack = stack_of()
    states, mask = some_episodes()
    assert acting_states(stack, states, IDS, LENGTHS, mask) is not None
    change(stack)
    assert acting_states(stack, states, IDS, LENGTHS, mask) is None
    assert acting_states(stack_of(Gemma2Config, head_dim=8), states, IDS, LENGTHS, mask) is None


@pytest.mark.parametrize("level", ["latent", "token"])
def test_an_actors_acting_states_are_its_features_there(level, latent_backbone, token_backbone) -> None:
    backbone = copy.deepcopy(latent_backbone if level == "latent" else token_backbone)
    actor = make_actor(backbone)
    rollout = collect(episodes_of(backbone, Talking, 3, max_tokens=20), actor, seeds=range(5))
    torch.testing.assert_close(
        actor.acting(rollout), actor.features(rollout)[rollout.mask], atol=1e-5, rtol=0
    )
    for size in (None, 1, 2, 5):
        parts = in_parts(rollout, size)
        assert sorted(np.concatenate(parts).tolist()) == list(range(5))
        lengths = rollout.lengths[np.concatenate(parts)].tolist()
        assert size in (None, 5) or lengths == sorted(lengths)


@pytest.mark.parametrize("method", ["encode", "features"])
@pytest.mark.parametrize("level", ["latent", "token"])
def test_a_subclass_that_makes_its_own_features_acts_on_these(level, method, request) -> None:
    backbone = request.getfixturevalue(f"{level}_backbone")
    rollout = collect(episodes_of(backbone), make_actor(backbone), seeds=[1, 2])
    actor = make_actor(backbone)
    kind = type(actor)
    plain = actor.acting(rollout)
    doubled = {method: lambda self, *args, **kwargs: 2 * getattr(kind, method)(self, *args, **kwargs)}
    actor.__class__ = type("Doubled", (kind,), doubled)
    torch.testing.assert_close(actor.acting(rollout), 2 * plain, atol=1e-5, rtol=1e-5)
