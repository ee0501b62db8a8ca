"""The one sampler: what it returns is the distribution it draws from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from cola_agents.model.sampling import distribution, sample

#: A grid of uniforms so fine that shares of draws are probabilities up to its step.
STEPS = 20_000
GRID = (torch.arange(STEPS, dtype=torch.float64) + 0.5) / STEPS

SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 3},
    {"top_k": 99},
    {"top_p": 0.3},
    {"top_p": 0.8},
    {"temperature": 0.7, "top_k": 4, "top_p": 0.7},
]


def logits_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(row: list[float], temperature=1.0, top_k=None, top_p=1.0) -> list[float]:
    """The distribution in plain Python, from the words of the docstring."""
    weights = [math.exp(x / temperature) for x in row]
    order = sorted(range(len(row)), key=lambda i: (-weights[i], i))[:top_k]
    total = sum(weights[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        if mass >= top_p:
            break
        kept.append(i)
        mass += weights[i] / total
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(row))]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7)])
def test_distribution_equals_its_definition_in_any_shape(shape, settings):
    logits = logits_of(*shape)
    expected = torch.tensor([by_hand(row, **settings) for row in logits.reshape(-1, 7).tolist()])
    found = distribution(logits, **settings)
    assert found.shape == logits.shape
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().reshape(-1, 7), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", SETTINGS)
def test_shares_over_a_grid_of_uniforms_are_the_probabilities(settings):
    logits = logits_of(6, seed=1)
    chosen, log_probs = sample(logits.expand(STEPS, -1), GRID, **settings)
    shares = torch.bincount(chosen, minlength=6) / STEPS
    probs = distribution(logits, **settings).exp()
    assert (shares - probs).abs().max() <= 1.01 / STEPS
    torch.testing.assert_close(log_probs, distribution(logits, **settings)[chosen])
    assert torch.isfinite(log_probs).all()


def test_draws_rise_with_u_and_reach_the_edges():
    logits = torch.log(torch.tensor([0.25, 0.25, 0.5]))
    u = torch.tensor([0.0, 0.2499, 0.2501, 0.4999, 0.5001, 1 - 2**-53], dtype=torch.float64)
    assert sample(logits.expand(6, -1), u)[0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-24, 1 - 2**-53, 1.0])
def test_what_has_no_mass_is_never_drawn(u):
    """Even where a uniform was rounded up to one on its way here."""
    logits = torch.tensor([[-math.inf, 1.0, -math.inf, 0.5, 0.2, -math.inf]])
    for settings in ({}, {"top_k": 2}, {"top_p": 0.5}):
        chosen, log_prob = sample(logits, torch.tensor([u], dtype=torch.float64), **settings)
        assert chosen.item() in (1, 3, 4)
        assert math.isfinite(log_prob.item())


def test_an_entry_that_was_taken_is_kept_beside_the_likeliest():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    found = distribution(logits, top_k=2, taken=torch.tensor([3, 3]))
    assert found.isfinite().tolist() == [[True, True, False, True], [False, False, True, True]]
    torch.testing.assert_close(found[0, [0, 1, 3]], logits[0, [0, 1, 3]].log_softmax(-1))


def test_temperature_zero_is_the_argmax_with_certainty():
    logits = logits_of(4, 9)
    u = torch.tensor([0.0, 0.3, 0.9, 0.999])
    chosen, log_probs = sample(logits, u, temperature=0)
    assert torch.equal(chosen, logits.argmax(-1))
    assert log_probs.tolist() == [0.0] * 4
    assert torch.equal(distribution(logits, temperature=0).exp().sum(-1), torch.ones(4))


def test_ties_go_to_the_lowest_index():
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0], [3.0, 0.0, 3.0, 3.0]])
    u = torch.tensor([0.99, 0.99])
    assert sample(logits, u, temperature=0)[0].tolist() == [1, 0]
    assert sample(logits, u, top_k=1)[0].tolist() == [1, 0]
    assert sample(logits, u, top_k=2)[0].tolist() == [2, 2]
    assert sample(logits, u, top_p=1e-6)[0].tolist() == [1, 0]


def test_ties_at_the_border_of_many_go_to_the_lowest_indices():
    """Enough entries that a sort must be told to be stable."""
    logits = torch.zeros(5000)
    logits[4000:] = -1.0
    assert torch.isfinite(distribution(logits, top_k=7)).nonzero().flatten().tolist() == list(range(7))
    assert torch.isfinite(distribution(logits, top_p=0.001)).nonzero().flatten().tolist() == [*range(5)]


def test_a_low_temperature_tends_to_greedy():
    logits = logits_of(50, 9)
    u = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample(logits, u, temperature=1e-5)[0], logits.argmax(-1))
    _, log_probs = sample(1e31 * logits, u, temperature=1e-6)
    assert log_probs.isfinite().all()


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_row_does_not_depend_on_the_rows_beside_it(settings):
    logits, u = logits_of(32, 11), torch.rand(32, generator=torch.Generator().manual_seed(1))
    chosen, log_probs = sample(logits, u, **settings)
    for row in range(32):
        alone, log_prob = sample(logits[row : row + 1], u[row : row + 1], **settings)
        assert alone.item() == chosen[row].item()
        assert log_prob.item() == pytest.approx(log_probs[row].item(), abs=1e-6)
    shuffled = torch.randperm(32, generator=torch.Generator().manual_seed(2))
    assert torch.equal(sample(logits[shuffled], u[shuffled], **settings)[0], chosen[shuffled])


def test_half_precision_logits_are_drawn_in_float32():
    logits = logits_of(4, 9).bfloat16()
    chosen, log_probs = sample(logits, torch.full((4,), 0.4))
    assert log_probs.dtype == torch.float32
    assert torch.equal(chosen, sample(logits.float(), torch.full((4,), 0.4))[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": 1e-39},
        {"temperature": 9e-7},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": math.nan},
        {"top_k": 0},
        {"top_k": -1},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        distribution(logits_of(3), **settings)
