"""The optimiser of the agents: the learning rate's warm-up."""

import copy

import pytest
import torch
from torch import nn

from cola_agents import GRPO
from cola_agents.rl.optimiser import Adam32, fit_batches


def moved(optimiser: Adam32, weight: nn.Parameter) -> float:
    """How far a step on a gradient of ones moves a weight: the learning rate, under Adam."""
    before = weight.item()
    weight.grad = torch.ones_like(weight)
    optimiser.step(max_norm=10.0)
    return before - weight.item()


def warmed(warmup: int) -> tuple[Adam32, nn.Parameter]:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64).float())
    return Adam32([weight], lr=0.1, warmup=warmup), weight


def test_the_rate_rises_linearly_over_the_warm_up_and_stays():
    steps = [moved(*pair) for pair in [warmed(4)] for _ in range(6)]
    assert steps == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1], rel=1e-4)


@pytest.mark.parametrize("warmup", [0, 1])
def test_without_a_warm_up_the_first_step_has_the_whole_rate(warmup):
    assert moved(*warmed(warmup)) == pytest.approx(0.1, rel=1e-4)


def test_a_loaded_optimiser_goes_on_inside_the_warm_up():
    one, weight = warmed(4)
    for _ in range(2):
        moved(one, weight)
    other, twin = warmed(4)
    twin.data.copy_(weight.data)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert moved(other, twin) == moved(one, weight) == pytest.approx(0.075, rel=1e-4)
    assert [group["lr"] for group in other.adam.param_groups] == [0.1]


@pytest.mark.parametrize("steps", [1, 2, 100])
def test_the_first_of_any_number_of_batches_is_learned_from_and_none_is_lost(steps):
    model = nn.Linear(1, 1, bias=False)
    moves, before = [], model.weight.item()
    loss = lambda batch: (batch * model.weight.sum(), {"batch": batch})  # noqa: E731
    for record in fit_batches(model, [1.0] * steps, steps, loss, lr=0.1, final=0.1, name="fit"):
        assert (record["step"], record["batch"]) == (len(moves) + 1, 1.0)
        moves.append(before - model.weight.item())
        before = model.weight.item()
    peak = max(1, round(0.03 * steps)) - 1
    assert moves[: peak + 1] == pytest.approx([0.1 * (i + 1) / (peak + 1) for i in range(peak + 1)], rel=1e-3)
    assert moves[peak:] == sorted(moves[peak:], reverse=True)
    assert len(moves) == steps
    assert min(moves) > 0.009


def test_the_state_of_weights_of_another_type_is_refused():
    half, full = (
        Adam32([nn.Parameter(torch.zeros(1, dtype=kind))], 0.1) for kind in (torch.half, torch.float)
    )
    for one, other in ((half, full), (full, half)):
        with pytest.raises(ValueError, match="optimiser of other weights"):
            one.load_state_dict(copy.deepcopy(other.state_dict()))


@pytest.mark.parametrize(
    ("env_id", "options", "expected"),
    [
        ("CoLA-Arithmetic-v0", {}, 0),
        ("CoLA-Arithmetic-Token-v0", {}, 10),
        ("CoLA-Arithmetic-Token-v0", {"warmup": 0}, 0),
        ("CoLA-Arithmetic-v0", {"warmup": 3}, 3),
    ],
)
def test_tokens_are_warmed_up_by_default_and_codes_are_not(env_id, options, expected):
    agent = GRPO(env_id, num_envs=1, **options)
    agent.close()
    assert agent.optimiser.warmup == expected


def test_a_negative_warm_up_is_refused():
    with pytest.raises(ValueError, match="warmup is a number of gradient steps, 0 or more, got -1"):
        GRPO("CoLA-Arithmetic-v0", warmup=-1)
