"""The mathematics, against numbers worked by hand and against the official code's."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from cola_agents.rl.losses import (
    adapted_kl_coef,
    average,
    categorical_entropy,
    categorical_kl,
    clipped_surrogate,
    gae,
    group_advantages,
    leave_one_out,
    macro_starts,
    masked_mean,
    reinforce_objective,
    rewards_to_go,
    sampled_kl,
    sum_macros,
    value_errors,
    whiten,
    zero_groups,
)
from cola_agents.search.q import td_target
from cola_agents.train.code_losses import (
    assign_codes,
    gumbel_noise,
    negative_entropy,
    negative_marginal_entropy,
)
from tests.official import FIXTURES


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


def test_clipped_surrogate_by_hand():
    """Ratios 1.5, 1.5, .5, .5 with advantages 1, -1, 1, -1 and clip .2.

    min(1.5, 1.2) = 1.2;  min(-1.5, -1.2) = -1.5;  min(.5, .8) = .5;  min(-.5, -.8) = -.8.
    """
    log_probs = torch.tensor([1.5, 1.5, 0.5, 0.5]).log() - 2.0
    found = clipped_surrogate(log_probs, torch.full((4,), -2.0), torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2)
    torch.testing.assert_close(found, torch.tensor([1.2, -1.5, 0.5, -0.8]))


def test_clipped_surrogate_has_no_gradient_where_it_is_clipped():
    log_probs = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5])).requires_grad_()
    clipped_surrogate(log_probs, torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2).sum().backward()
    torch.testing.assert_close(log_probs.grad, torch.tensor([0.0, -1.5, 0.5, 0.0]))


def test_reinforce_weighs_each_score_by_its_advantage():
    log_probs = torch.tensor([-1.0, -2.0], requires_grad=True)
    reinforce_objective(log_probs, torch.tensor([3.0, -0.5])).sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [3.0, -0.5]


def test_value_errors_by_hand():
    """old 0, return 1, clip .2: value .5 errs .25, clipped .2 errs .64; value .1 errs .81 both ways."""
    found = value_errors(torch.tensor([0.5, 0.1]), torch.zeros(2), torch.ones(2), 0.2)
    torch.testing.assert_close(found, torch.tensor([0.64, 0.81]) / 2)


def test_averages_by_hand():
    """Rows 1 2 3 and 6: 12 / 4 a position, (2 + 6) / 2 a row; halves of a batch add up to its mean."""
    values, mask = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([[1, 1, 1], [0, 1, 0]])
    assert average(values, mask, "token").item() == 3.0
    assert average(values, mask, "sequence").item() == 4.0
    for how, total in (("token", 4), ("sequence", 2)):
        parts = average(values[:3], mask[:1], how, total) + average(values[3:], mask[1:], how, total)
        assert parts.item() == average(values, mask, how).item()


def test_leave_one_out_by_hand():
    """1 2 6: 1 - 4, 2 - 3.5, 6 - 1.5. Equal rewards give nothing."""
    found = leave_one_out(torch.tensor([1.0, 2.0, 6.0, 0.1, 0.1, 0.1]), 3)
    torch.testing.assert_close(found, torch.tensor([-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="4 rewards do not divide into groups of 3"):
        leave_one_out(torch.zeros(4), 3)
    assert zero_groups(torch.tensor([1.0, 2.0, 6.0, 0.1, 0.1, 0.1]), 3) == 0.5


def test_rewards_to_go_by_hand():
    assert rewards_to_go(torch.tensor([[1.0, 0.0, 2.0]])).tolist() == [[3.0, 2.0, 2.0]]


def test_macro_actions_begin_anew_behind_foreign_text():
    """Runs of 5 and 2 and, in the next row, of 1 and 4; two actions each."""
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 0, 0, 1, 1], [1, 0, 1, 1, 1, 1, 0, 0, 0, 0]])
    starts = macro_starts(mask, 2)
    assert starts.int().tolist() == [[0, 1, 0, 1, 0, 1, 0, 0, 1, 0], [1, 0, 1, 0, 1, 0, 0, 0, 0, 0]]
    values = torch.arange(1.0, 13.0)
    assert sum_macros(values, mask, starts).tolist() == [3.0, 7.0, 5.0, 13.0, 8.0, 19.0, 23.0]
    assert torch.equal(macro_starts(mask, 1), mask.bool())
    assert macro_starts(mask, 99).sum() == 4


def test_macro_actions_count_actions_that_write_several_tokens():
    """Actions of two, three, one and two tokens; one of the environment's; actions of three and two."""
    mask = torch.tensor([[0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0]])
    written = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1]])
    at = [1, 3, 6, 7, 10, 13]
    for length, wanted in {1: at, 2: [1, 6, 10], 3: [1, 7, 10], 99: [1, 10]}.items():
        assert macro_starts(mask, length, written)[0].nonzero().flatten().tolist() == wanted
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 0, 0, 1, 1], [1, 0, 1, 1, 1, 1, 0, 0, 0, 0]])
    written = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0, 0, 1], [0, 1, 0, 1, 1, 1, 1, 0, 0, 0]])
    for length in (1, 2, 3, 99):
        assert torch.equal(macro_starts(mask, length, written), macro_starts(mask, length))


def test_sampled_kl_by_hand():
    """p = .5, q = .25: log ratio log 2; k3 = .5 - 1 + log 2. Both have the KL as their mean."""
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    k1, k3 = sampled_kl(p, q, "k1"), sampled_kl(p, q, "k3")
    assert k1[0].item() == pytest.approx(math.log(2))
    assert k3[0].item() == pytest.approx(-0.5 + math.log(2))
    assert (k3 >= 0).all()
    for estimate in (k1, k3):
        assert (p.exp() * estimate).sum().item() == pytest.approx(categorical_kl(p, q).item())


def test_the_kls_weight_moves_by_a_clipped_share():
    assert adapted_kl_coef(1.0, 0.11, 0.1, 0.1) == pytest.approx(1.01)
    assert adapted_kl_coef(1.0, 9.0, 0.1, 0.1) == pytest.approx(1.02)
    assert adapted_kl_coef(1.0, 0.0, 0.1, 0.1) == pytest.approx(0.98)


def test_td_target_by_hand():
    """The online values choose action 1 at t = 1; the target's 7 there counts. Nothing follows the end."""
    online = torch.tensor([[[0.0, 0.0], [1.0, 2.0], [9.0, 0.0]]])
    target = torch.tensor([[[0.0, 0.0], [5.0, 7.0], [4.0, 4.0]]])
    rewards, mask = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1, 1, 0]])
    assert td_target(rewards, online, target, mask, gamma=0.5).tolist() == [[4.5, 2.0]]


def test_categorical_kl_and_entropy_by_hand():
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert categorical_kl(p, q).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert categorical_kl(p, p).item() == 0.0
    never = torch.tensor([0.0, -torch.inf])
    assert categorical_kl(never, never).item() == 0.0
    assert categorical_kl(p, never).item() == torch.inf
    assert categorical_entropy(q).item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    batch = torch.randn(3, 4, 5).log_softmax(-1)
    assert categorical_kl(batch, batch.roll(1, 0)).shape == (3, 4)
    assert (categorical_kl(batch, batch.roll(1, 0)) > 0).all()


def test_what_has_no_probability_adds_nothing_to_kl_and_entropy_or_their_gradients():
    logits = torch.tensor([0.3, -0.2, 1.0], requires_grad=True)
    log_p = torch.log_softmax(logits.masked_fill(torch.tensor([False, True, False]), float("-inf")), -1)
    log_q = torch.log_softmax(torch.tensor([0.5, 0.1, -0.4]), -1)
    for figure in (categorical_kl, categorical_entropy):
        whole = (log_p, log_q) if figure is categorical_kl else (log_p,)
        found = figure(*whole)
        torch.testing.assert_close(found, figure(*(x[[0, 2]] for x in whole)))
        (gradient,) = torch.autograd.grad(found, logits, retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert gradient[1] == 0


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
    return load_file(FIXTURES / "rl_math" / "golden.safetensors")


def test_group_advantages_are_the_official_ones(rl_math):
    torch.testing.assert_close(
        group_advantages(rl_math["r"], len(rl_math["r"])), rl_math["grpo_normalised_r"], atol=1e-5, rtol=1e-5
    )
    assert not rl_math["grpo_normalised_r_all_equal"].any()


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


def test_whitening_is_the_official_one(rl_math):
    mask = rl_math["action_mask"]
    found = whiten(rl_math["grpo_advantages_g1_l0.95"], mask)
    expected = rl_math["grpo_advantages_normalised_over_buffer_rightpadded0"]
    for row in range(len(mask)):
        ours = found[row][mask[row].bool()]
        torch.testing.assert_close(ours, expected[row][: len(ours)], atol=1e-4, rtol=1e-4)


def test_losses_are_the_official_ones_sequence_by_sequence(rl_math):
    """Officially each sequence counts alike, whatever its length: here with ``loss_mean="sequence"``."""
    mask = rl_math["action_mask"]
    at = mask.bool()
    advantages = rl_math["grpo_advantages_normalised_over_buffer_rightpadded0"][at]
    new, old = rl_math["new_log_probs"][at], rl_math["old_log_probs"][at]
    values, returns = rl_math["values"][at], rl_math["ppo_returns_g1_l0.95"][at]
    entries = {
        "policy_loss_clip0.2": -clipped_surrogate(new, old, advantages, 0.2),
        "reinforce_loss": -reinforce_objective(new, advantages),
        # The fixtures' notes say + 0.5; the recorded number is that of + 0.25, to its last digit.
        "value_loss_clip0.2": value_errors(values + 0.25, values, returns, 0.2),
    }
    for name, each in entries.items():
        by_sequence = average(each, mask, "sequence").item()
        assert by_sequence == pytest.approx(rl_math[name].item(), abs=1e-5), name
        assert abs(average(each, mask, "token").item() - by_sequence) > 1e-4, "lengths tell the two apart"


def test_the_kl_and_its_rewards_are_the_official_ones(rl_math):
    """Officially task rewards are cut to [-10, 10] on the way: done here by hand, since we never do it."""
    mask = rl_math["action_mask"]
    kl = sampled_kl(rl_math["old_log_probs"], rl_math["ref_log_probs"], "k1") * mask
    torch.testing.assert_close(kl, rl_math["kl"], atol=1e-5, rtol=0)
    last = (mask * torch.arange(1, mask.shape[1] + 1)).argmax(1)
    cut = rl_math["r"].clamp(-10, 10)
    for name, paid in (
        ("ppo", cut),
        ("remax", cut - rl_math["base_r"].clamp(-10, 10)),
        ("grpo", group_advantages(rl_math["r"], len(mask))),
    ):
        rewards = -0.01 * kl
        rewards[torch.arange(len(mask)), last] += paid
        torch.testing.assert_close(rewards, rl_math[f"{name}_reward_klcoef0.01"], atol=1e-4, rtol=0)


def test_td_targets_are_the_official_ones(rl_math):
    """Officially actions are -100 where none was taken; the loss is a masked mean of squared errors."""
    taken = rl_math["q_actions"] != -100
    found = td_target(rl_math["q_rewards"], rl_math["q_online"], rl_math["q_target"], taken, gamma=0.99)
    where = taken[:, :-1]
    torch.testing.assert_close(found[where], rl_math["q_td_target"][where], atol=1e-4, rtol=0)
    chosen = rl_math["q_actions"].clamp_min(0)[:, :-1, None]
    values = rl_math["q_online"][:, :-1].gather(-1, chosen).squeeze(-1)
    assert masked_mean((values - found) ** 2, where).item() == pytest.approx(
        rl_math["q_loss"].item(), abs=1e-4
    )
