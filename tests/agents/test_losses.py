"""The mathematics, against numbers worked by hand and against the official code's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cola_agents.losses import (
    assign_codes,
    categorical_entropy,
    categorical_kl,
    clipped_loss,
    gae,
    group_advantages,
    gumbel_noise,
    masked_mean,
    negative_entropy,
    negative_marginal_entropy,
    value_loss,
    whiten,
)
from tests import tiny

needs_fixtures = pytest.mark.skipif(not tiny.FIXTURES.is_dir(), reason="no ../shared/fixtures here")


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# ------------------------------------------------------------------ advantages


def test_gae_of_three_steps_by_hand():
    """gamma .5, lambda .5, values 1 2 4, rewards 1 0 8, terminated.

    deltas: 8 - 4 = 4;  0 + .5 * 4 - 2 = 0;  1 + .5 * 2 - 1 = 1.
    A2 = 4;  A1 = 0 + .25 * 4 = 1;  A0 = 1 + .25 * 1 = 1.25.
    """
    ones = torch.ones(1, 3, dtype=torch.float64)
    advantages, returns = gae(
        tensor([1, 0, 8]), tensor([1, 2, 4]), ones, torch.zeros(1).double(), gamma=0.5, lam=0.5
    )
    assert advantages.tolist() == [[1.25, 1.0, 4.0]]
    assert returns.tolist() == [[2.25, 3.0, 8.0]]


def test_text_of_the_task_between_actions_decays_nothing():
    """The same three actions with prompt, task text and padding around them, and junk values there."""
    mask = torch.tensor([[0, 1, 0, 0, 1, 1, 0]])
    rewards = tensor([7, 1, 9, 9, 0, 8, 7])
    values = tensor([-5, 1, 100, -100, 2, 4, 33])
    advantages, returns = gae(rewards, values, mask, torch.zeros(1).double(), gamma=0.5, lam=0.5)
    assert advantages.tolist() == [[0, 1.25, 0, 0, 1.0, 4.0, 0]]
    assert returns.tolist() == [[0, 2.25, 0, 0, 3.0, 8.0, 0]]


def test_a_truncated_row_bootstraps_and_its_neighbour_does_not():
    """Row 0 bootstraps from 6: delta2 = 8 + .5 * 6 - 4 = 7, A1 = 0 + 7 / 4, A0 = 1 + 7 / 16."""
    rewards, values = tensor([1, 0, 8], [1, 0, 8]), tensor([1, 2, 4], [1, 2, 4])
    bootstrap = torch.tensor([6.0, 0.0], dtype=torch.float64)
    advantages, _ = gae(rewards, values, torch.ones(2, 3), bootstrap, gamma=0.5, lam=0.5)
    assert advantages.tolist() == [[1 + 7 / 16, 7 / 4, 7.0], [1.25, 1.0, 4.0]]
    assert bootstrap.tolist() == [6.0, 0.0], "arguments are not written to"


def test_with_gamma_and_lambda_one_the_last_reward_reaches_every_action_whole():
    mask = torch.tensor([[1.0] * 200 + [0.0] * 5])
    rewards = torch.zeros(1, 205)
    rewards[0, 199] = 1.0
    advantages, returns = gae(rewards, torch.zeros(1, 205), mask, torch.zeros(1), gamma=1.0, lam=1.0)
    assert torch.equal(advantages, mask)
    assert torch.equal(returns, mask)


def test_lambda_zero_is_the_one_step_error():
    rewards, values = tensor([1, 2, 3]), tensor([4, 5, 6])
    advantages, _ = gae(rewards, values, torch.ones(1, 3), torch.tensor([7.0]).double(), gamma=0.9, lam=0.0)
    torch.testing.assert_close(advantages, tensor([1 + 4.5 - 4, 2 + 5.4 - 5, 3 + 6.3 - 6]))


def test_group_advantages_by_hand():
    """1 2 3: mean 2, unbiased deviation 1. 0 0 1: mean 1/3, deviation sqrt(1/3)."""
    found = group_advantages(torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 1.0]), 3)
    root = math.sqrt(3)
    torch.testing.assert_close(found, torch.tensor([-1.0, 0.0, 1.0, -root / 3, -root / 3, 2 * root / 3]))


@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 0.7, 1000.1])
@pytest.mark.parametrize("size", [2, 3, 6, 7, 16])
def test_a_group_of_equal_rewards_has_zero_advantages(reward, size):
    assert group_advantages(torch.full((2 * size,), reward), size).tolist() == [0.0] * (2 * size)


@pytest.mark.parametrize(("count", "size"), [(6, 4), (6, 1), (3, 0)])
def test_groups_that_do_not_divide_are_refused(count, size):
    with pytest.raises(ValueError, match=f"{count} rewards do not divide into groups of {size}"):
        group_advantages(torch.zeros(count), size)


def test_whiten_counts_masked_entries_alone():
    values = torch.tensor([[1.0, 99.0, 3.0], [5.0, -99.0, 7.0]])
    mask = torch.tensor([[1, 0, 1], [1, 0, 1]])
    found = whiten(values, mask)
    scale = math.sqrt(5.0)  # mean 4, population variance (9 + 1 + 1 + 9) / 4
    torch.testing.assert_close(found, torch.tensor([[-3, 0, -1], [1, 0, 3]]) / scale)
    assert not whiten(torch.full((2, 3), 5.0), mask).any()


# ------------------------------------------------------------------ losses


def test_clipped_loss_by_hand():
    """Ratios 1.5, 1.5, .5, .5 with advantages 1, -1, 1, -1 and clip .2.

    min(1.5, 1.2) = 1.2;  min(-1.5, -1.2) = -1.5;  min(.5, .8) = .5;  min(-.5, -.8) = -.8.
    Their mean is -.6 / 4, and the loss its negative. A fifth entry is masked out.
    """
    ratios = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.0]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1e6]])
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    loss = clipped_loss(ratios.log() - 2.0, torch.full((1, 5), -2.0), advantages, mask, 0.2)
    assert loss.item() == pytest.approx(0.6 / 4, abs=1e-6)


def test_clipped_loss_has_no_gradient_where_it_is_clipped():
    log_probs = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5])).requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    clipped_loss(log_probs, torch.zeros(4), advantages, torch.ones(4), 0.2).backward()
    torch.testing.assert_close(log_probs.grad, torch.tensor([0.0, 1.5, -0.5, 0.0]) / 4)


def test_clipped_loss_ignores_what_is_masked_even_if_it_overflows():
    log_probs = torch.tensor([[0.0, 500.0]], requires_grad=True)
    loss = clipped_loss(log_probs, torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), torch.tensor([[1, 0]]), 0.2)
    loss.backward()
    assert loss.item() == -2.0
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [[-2.0, 0.0]]


def test_value_loss_by_hand():
    """old 0, return 1, clip .2: value .5 errs .25, clipped .2 errs .64; value .1 errs .81 both ways."""
    values, returns = torch.tensor([[0.5, 0.1, 9.0]]), torch.ones(1, 3)
    loss = value_loss(values, torch.zeros(1, 3), returns, torch.tensor([[1, 1, 0]]), 0.2)
    assert loss.item() == pytest.approx(0.5 * (0.64 + 0.81) / 2)


def test_categorical_kl_and_entropy_by_hand():
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert categorical_kl(p, q).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert categorical_kl(p, p).item() == 0.0
    assert categorical_entropy(q).item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    batch = torch.randn(3, 4, 5).log_softmax(-1)
    assert categorical_kl(batch, batch.roll(1, 0)).shape == (3, 4)
    assert (categorical_kl(batch, batch.roll(1, 0)) > 0).all()


def test_masked_mean_is_over_everything_and_zero_of_nothing():
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    assert masked_mean(values, torch.tensor([[1, 1, 1], [1, 0, 0]])).item() == 2.5
    assert masked_mean(values, torch.zeros(2, 3)).item() == 0.0


# ------------------------------------------------------------------ codes


def test_assigned_codes_are_one_hot_forwards_and_soft_backwards():
    logits = torch.tensor([[[2.0, 1.0, 0.0]]], requires_grad=True)
    noise = torch.tensor([[[0.0, 3.0, 0.0]]])
    assigned = assign_codes(logits, noise, 2.0)
    torch.testing.assert_close(assigned.probs, torch.tensor([[[1.0, 2.0, 0.0]]]).softmax(-1))
    torch.testing.assert_close(assigned.straight_through, torch.tensor([[[0.0, 1.0, 0.0]]]))
    weights = torch.tensor([1.0, 5.0, -2.0])
    (straight,) = torch.autograd.grad((assigned.straight_through * weights).sum(), logits, retain_graph=True)
    (soft,) = torch.autograd.grad((assigned.probs * weights).sum(), logits)
    torch.testing.assert_close(straight, soft)


def test_gumbel_noise_has_the_gumbel_distribution():
    noise = gumbel_noise(torch.Size([200_000]), torch.Generator().manual_seed(0))
    assert torch.isfinite(noise).all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)
    again = gumbel_noise(torch.Size([200_000]), torch.Generator().manual_seed(0))
    assert torch.equal(noise, again)


def test_argmax_of_noisy_logits_draws_from_the_softmax():
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    noise = gumbel_noise(torch.Size([50_000, 4]), torch.Generator().manual_seed(1))
    codes = assign_codes(logits.expand(50_000, -1), noise, 1.0).probs.argmax(-1)
    shares = torch.bincount(codes, minlength=4) / 50_000
    torch.testing.assert_close(shares, logits.softmax(-1), atol=0.01, rtol=0)


def test_the_two_regularisers_by_hand():
    """Two positions, each certain, of different codes: no entropy each, log 2 of their mixture."""
    probs = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.3, 0.7]]])
    mask = torch.tensor([[1, 1, 0]])
    assert negative_entropy(probs, mask).item() == pytest.approx(0.0, abs=1e-6)
    assert negative_marginal_entropy(probs, mask).item() == pytest.approx(-math.log(2), abs=1e-6)
    uniform = torch.full((1, 3, 4), 0.25)
    assert negative_entropy(uniform, mask).item() == pytest.approx(-math.log(4), abs=1e-6)


# ------------------------------------------------------------------ the official code's own values


@pytest.fixture(scope="module")
def rl_math() -> dict[str, torch.Tensor]:
    return load_file(tiny.FIXTURES / "rl_math" / "golden.safetensors")


@needs_fixtures
def test_group_advantages_are_the_official_ones(rl_math):
    torch.testing.assert_close(
        group_advantages(rl_math["r"], len(rl_math["r"])), rl_math["grpo_normalised_r"], atol=1e-5, rtol=1e-5
    )
    assert not rl_math["grpo_normalised_r_all_equal"].any()


@needs_fixtures
@pytest.mark.parametrize("algorithm", ["ppo", "remax", "grpo"])
def test_gae_is_the_official_one(rl_math, algorithm):
    mask = rl_math["action_mask"]
    values = rl_math["values"] if algorithm == "ppo" else torch.zeros_like(rl_math["values"])
    values = values * mask
    rewards = rl_math[f"{algorithm}_reward_klcoef0.01"]
    advantages, returns = gae(rewards, values, mask, torch.zeros(len(mask)), gamma=1.0, lam=0.95)
    where = mask.bool()
    expected = rl_math[f"{algorithm}_advantages_g1_l0.95"]
    torch.testing.assert_close(advantages[where], expected[where], atol=1e-5, rtol=1e-5)
    expected = rl_math[f"{algorithm}_returns_g1_l0.95"]
    torch.testing.assert_close(returns[where], expected[where], atol=1e-5, rtol=1e-5)


@needs_fixtures
def test_whitening_is_the_official_one(rl_math):
    mask = rl_math["action_mask"]
    found = whiten(rl_math["grpo_advantages_g1_l0.95"], mask)
    expected = rl_math["grpo_advantages_normalised_over_buffer_rightpadded0"]
    for row in range(len(mask)):
        ours = found[row][mask[row].bool()]
        torch.testing.assert_close(ours, expected[row][: len(ours)], atol=1e-4, rtol=1e-4)


@needs_fixtures
def test_losses_are_the_official_ones_sequence_by_sequence(rl_math):
    """Officially each sequence counts alike, whatever its length; here each position does."""
    mask = rl_math["action_mask"]
    advantages = rl_math["grpo_advantages_normalised_over_buffer_rightpadded0"]
    log_probs = (rl_math["new_log_probs"], rl_math["old_log_probs"], advantages)
    # The fixtures' notes say + 0.5; the recorded number is that of + 0.25, to its last digit.
    values = (rl_math["values"] + 0.25, rl_math["values"], rl_math["ppo_returns_g1_l0.95"])
    lengths = mask.sum(1)
    rows = range(len(mask))

    def check(loss: Any, given: tuple[torch.Tensor, ...], name: str) -> None:
        each = torch.stack([loss(*(t[i : i + 1] for t in (*given, mask)), clip=0.2) for i in rows])
        assert each.mean().item() == pytest.approx(rl_math[name].item(), abs=1e-5)
        by_position = (each * lengths).sum() / lengths.sum()
        assert loss(*given, mask, clip=0.2).item() == pytest.approx(by_position.item(), abs=1e-5)
        assert abs(by_position - each.mean()) > 1e-4, "lengths that differ tell the two apart"

    check(clipped_loss, log_probs, "policy_loss_clip0.2")
    check(value_loss, values, "value_loss_clip0.2")
