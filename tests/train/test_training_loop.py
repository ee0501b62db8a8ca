"""The training loop: a step learns the same however its batch is cut, and says what it cannot do."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from itertools import islice, repeat
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cola_agents.train.clone import clone_policy
from cola_agents.train.code_losses import mean_distribution, negative_marginal_entropy
from cola_agents.train.cross_entropy import target_cross_entropy
from cola_agents.train.data.packing import IGNORED, Batch
from cola_agents.train.learner import filled
from cola_agents.train.loop import run_stage
from cola_agents.train.options import CodeConfig, StageConfig
from cola_agents.train.runs import Run
from cola_agents.train.stage import StageLoss, row_generators
from cola_agents.train.world import WorldLoss
from tests import tiny
from tests.train.training_runs import Batches, config, run


def losses(records: list[dict[str, float]]) -> list[float]:
    return [record["loss"] for record in records]


def assert_same_weights(one: nn.Module, two: nn.Module, atol: float = 1e-5) -> None:
    for (name, tensor), other in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, other, atol=atol, rtol=0, msg=name)


# ------------------------------------------------------------------ micro-batches


class Uneven(Batches):
    """Batches in which rows have very different numbers of targets."""

    def __next__(self) -> Batch:
        batch = super().__next__()
        targets = batch.targets.clone()
        targets[1, 8:] = IGNORED
        targets[2] = IGNORED
        return Batch(**{**vars(batch), "targets": targets})


@pytest.mark.parametrize("stage", ["base", "world", "policy"])
def test_accumulated_gradients_train_as_the_whole_batch_does(stage):
    """Losses, figures and weights, with a micro-batch in which no target counts among them."""
    whole, expected = run(stage, steps=5, batches=Uneven())
    for micro_rows in (2, 1):
        model, records = run(stage, steps=5, batches=Uneven(), micro_rows=micro_rows)
        for one, two in zip(records, expected, strict=True):
            assert one == pytest.approx(two, abs=1e-4)
        assert_same_weights(model, whole, 1e-4)


def test_the_marginal_entropy_of_parts_is_that_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 4, generator=generator, requires_grad=True)
    counts = torch.rand(3, 5, generator=generator) < 0.6
    counts[1] = False
    expected = negative_marginal_entropy(logits.softmax(-1), counts)
    (gradient,) = torch.autograd.grad(expected, logits)
    probs = logits.softmax(-1)
    at = mean_distribution(probs.detach(), counts)
    shares = counts.sum(1) / counts.sum()
    parts = [negative_marginal_entropy(probs[r : r + 1], counts[r : r + 1], at) for r in range(3)]
    pooled = sum((share * part for share, part in zip(shares, parts, strict=True)), torch.zeros(()))
    (summed,) = torch.autograd.grad(pooled, logits)
    assert pooled.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(summed, gradient, atol=1e-7, rtol=1e-4)


def test_a_row_has_its_noise_whatever_the_cut():
    drawn = [torch.rand(2, generator=g) for g in row_generators(3, 7, range(4))]
    (apart,) = row_generators(3, 7, range(2, 3))
    assert torch.equal(torch.rand(2, generator=apart), drawn[2])
    others = [row_generators(*key, range(1))[0] for key in ((3, 8), (4, 7), (7, 3))]
    seen = [drawn[0], drawn[1], *(torch.rand(2, generator=g) for g in others)]
    assert len({tuple(x.tolist()) for x in seen}) == 5


def test_a_batch_of_fewer_rows_is_filled_with_rows_of_nothing():
    batch = next(Batches())
    few = Batch(**{name: tensor[:3] for name, tensor in vars(batch).items()})
    full = filled(few, 4)
    assert full.ids.shape == batch.ids.shape
    assert (full.targets[3] == IGNORED).all()
    assert full.mask[3].any(-1).all(), "a row that sees nothing would be NaN"
    results = [losses(run("world", steps=1, batches=iter([few]), rows=rows)[1]) for rows in (3, 4, 6)]
    assert results[1] == pytest.approx(results[0], abs=1e-5)
    assert results[2] == pytest.approx(results[0], abs=1e-5)


def test_pooling_is_spared_where_it_changes_nothing(monkeypatch):
    called = []
    pool = WorldLoss.pool
    monkeypatch.setattr(WorldLoss, "pool", lambda *given: called.append(1) or pool(*given))
    run("world", steps=1)
    run("world", steps=1, micro_rows=2, codes=CodeConfig(marginal=0.0))
    assert not called
    run("world", steps=1, micro_rows=2)
    assert len(called) == 2


# ------------------------------------------------------------------ a toy


class Toy(StageLoss):
    """A loss of one weight and a codebook that does not depend on the batch."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.codebook = nn.Embedding(1, 1)
        nn.init.ones_(self.codebook.weight)
        self._loss = loss
        self.seen: list[float] = []

    def forward(self, batch: Batch, generators: Any, pooled: Tensor | None = None) -> Any:
        self.seen.append(self.weight.item())
        return self._loss(self.weight) + 0 * self.codebook.weight.sum(), {}


def toy_batches() -> Iterator[Batch]:
    return repeat(next(Batches()))


def train_toy(loss: Any, batches: Any = None, **changed: Any) -> tuple[Toy, list[dict[str, float]]]:
    toy = Toy(loss)
    records = run_stage("toy", toy, list(toy.parameters()), batches or toy_batches(), config(**changed))
    return toy, records


def test_the_learning_rate_warms_up_and_falls_to_its_final_share():
    toy, records = train_toy(
        lambda weight: -weight.sum(), steps=60, lr=0.1, warmup=10, final=0.05, weight_decay=0.0
    )
    ends = [*toy.seen[1:], toy.weight.item()]
    steps = [b - a for a, b in zip(toy.seen, ends, strict=True)]
    # With a constant gradient Adam moves by the learning rate.
    assert steps[0] == pytest.approx(0.01, rel=1e-3)
    assert steps[10] == pytest.approx(0.1, rel=1e-3)
    assert max(steps) == pytest.approx(0.1, rel=1e-3)
    assert steps[-1] == pytest.approx(0.005, rel=0.05)
    assert steps == pytest.approx([record["lr"] for record in records], rel=1e-3)


def test_the_codebook_decays_apart_where_that_is_asked_for():
    def decayed(**changed: Any) -> float:
        toy, _ = train_toy(
            lambda weight: weight.sum(), steps=1, warmup=0, lr=0.1, weight_decay=0.5, **changed
        )
        return toy.codebook.weight.item()

    assert decayed() == pytest.approx(0.95)
    assert decayed(codebook_weight_decay=0.0) == 1.0
    assert decayed(codebook_weight_decay=0.1) == pytest.approx(0.99)


def test_the_gradient_is_clipped_by_its_whole_norm():
    class Two(Toy):
        def forward(self, batch: Batch, generators: Any, pooled: Tensor | None = None) -> Any:
            return 3 * self.weight.sum() + 4 * self.codebook.weight.sum(), {}

    toy = Two(None)
    (record,) = run_stage(
        "toy", toy, list(toy.parameters()), toy_batches(), config(steps=1, clip=0.5, micro_rows=2)
    )
    assert record["grad_norm"] == pytest.approx(5.0)
    assert toy.weight.grad is not None
    assert toy.codebook.weight.grad is not None
    assert [toy.weight.grad.item(), toy.codebook.weight.grad.item()] == pytest.approx([0.3, 0.4], rel=1e-4)


# ------------------------------------------------------------------ precision and memory


@pytest.mark.parametrize("stage", ["base", "world", "policy"])
def test_bf16_trains_float32_weights_to_nearly_the_same_losses(stage):
    _, expected = run(stage, steps=4)
    model, records = run(stage, steps=4, precision="bf16", dtype="bfloat16")
    assert losses(records) == pytest.approx(losses(expected), abs=0.1)
    assert losses(records) != losses(expected)
    types = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    assert types == {torch.float32}
    if stage != "base":
        assert model.base.embed_tokens.weight.dtype == torch.bfloat16, "the frozen base stays as it was"


def test_weights_stay_in_low_precision_where_that_is_asked_for():
    model, _ = run("policy", steps=2, precision="bf16", dtype="bfloat16", low_precision_weights=True)
    assert model.policy_head.weight.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"several types \(torch.bfloat16, torch.float32.*precision='bf16'"):
        run("policy", steps=1, dtype="bfloat16")


@pytest.mark.parametrize(("stage", "layers"), [("base", 2), ("world", 1), ("policy", 2)])
def test_gradient_checkpointing_changes_no_loss_and_recomputes_trained_layers(stage, layers, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaAttention

    calls: list[bool] = []
    forward = LlamaAttention.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaAttention, "forward", counted)
    plain, expected = run(stage, steps=2)
    without = len(calls)
    model, records = run(stage, steps=2, gradient_checkpointing=True)
    assert losses(records) == losses(expected)
    assert_same_weights(model, plain, 1e-7)
    assert len(calls) - without == without + 2 * layers, "each trained layer once more in each step"


def test_dropout_acts_in_trained_parts_alone_and_the_same_way_again():
    def dropping(rate: float, part: str, seed: int = 0) -> list[float]:
        model = tiny.make_cola()
        for module in getattr(model, part).modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = rate
        state = torch.get_rng_state()
        records = clone_policy(model, Batches(), config(steps=2, seed=seed))
        assert torch.equal(torch.get_rng_state(), state), "nobody else's random state is touched"
        assert not any(module.training for module in model.modules())
        return losses(records)

    none = dropping(0.0, "policy_trunk")
    some = dropping(0.5, "policy_trunk")
    assert some != none
    assert some == dropping(0.5, "policy_trunk")
    assert some != dropping(0.5, "policy_trunk", seed=1)
    assert none == dropping(0.5, "base") == dropping(0.5, "inverse_trunk")


# ------------------------------------------------------------------ the paper's defaults


def test_the_papers_stages_are_those_of_the_official_code():
    world, policy = StageConfig.paper_world(), StageConfig.paper_policy(micro_rows=8)
    assert world.tokens == pytest.approx(1.1e12, rel=1e-5)
    assert policy.tokens == pytest.approx(6.4e11, rel=1e-5)
    assert (world.rows, world.length, world.micro_rows, policy.micro_rows) == (512, 2048, 4, 8)
    assert (world.lr, world.lr * world.final, world.warmup) == (1e-4, pytest.approx(4e-5), 100)
    assert world.betas == (0.9, 0.999)
    assert (world.weight_decay, world.codebook_weight_decay, world.clip, world.seed) == (0.01, 0.0, 1.0, 42)
    assert (world.precision, world.gradient_checkpointing) == ("bf16", True)
    assert policy.codebook_weight_decay is None
    assert (CodeConfig.paper().tau, CodeConfig.paper().entropy, CodeConfig.paper().marginal) == (2, 0.001, 0)
    assert world.rate(100) == 1.0
    assert world.rate(world.steps) == pytest.approx(0.4, abs=1e-6)


# ------------------------------------------------------------------ what cannot be


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "^steps must be at least 1, got 0$"),
        ({"rows": 0}, "^rows must be at least 1, got 0$"),
        ({"length": 4}, "^length must be at least 8, got 4$"),
        ({"warmup": -2}, "^warmup must be at least 0, got -2$"),
        ({"rows": 8, "micro_rows": 3}, "rows=8 is not a multiple of micro_rows=3"),
        ({"micro_rows": 0}, "micro_rows=0"),
        ({"precision": "fp16"}, r"precision='fp16' is not one of \('float32', 'bf16'\)"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"save_every": 0}, "save_every must be at least 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**63}, r"seed must be at most 9223372036854775807 \(2\*\*63 - 1\), got 92233720368547758"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"lr": math.inf}, "lr must be positive and finite, got inf"),
        ({"clip": math.nan}, "^clip must be positive, got nan$"),
        ({"steps": 10.5}, "steps must be a whole number, got 10.5"),
        ({"rows": True}, "rows must be a whole number, got True"),
        ({"micro_rows": 2.0}, "micro_rows must be a whole number, got 2.0"),
        ({"warmup": None}, "warmup must be a whole number, got None"),
        ({"final": -3.0}, "final must be finite and not negative, got -3.0"),
        ({"weight_decay": math.nan}, "weight_decay must be finite"),
        ({"codebook_weight_decay": -0.1}, "codebook_weight_decay must be finite"),
        ({"betas": (2.0, -1.0)}, r"betas must be two numbers from 0 to below 1, got \(2.0, -1.0\)"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        StageConfig(**{"steps": 1, **fields})


@pytest.mark.parametrize("name", ["tau", "entropy", "marginal"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_or_temperature_that_is_not_finite_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"\(--{name}\) must be .*finite.*, got {value}"):
        CodeConfig(**{name: value})


@pytest.mark.parametrize("name", ["tau", "entropy", "marginal"])
def test_a_negative_weight_or_temperature_is_refused_with_its_option(name):
    with pytest.raises(ValueError, match=rf"\(--{name}\) must be .*, got -1"):
        CodeConfig(**{name: -1})
    assert CodeConfig(entropy=0, marginal=0).marginal == 0


def test_a_rate_that_never_gets_to_its_peak_is_said_where_a_run_begins(tmp_path):
    with warnings.catch_warnings(action="error"):
        short = StageConfig(steps=20)
        train_toy(torch.sum, steps=2, warmup=2)
        Run("world", "m", tmp_path, epochs=1)  # whose steps are counted later
    assert max(map(short.rate, range(1, 21))) == 0.4
    with pytest.warns(UserWarning, match="gets to 40% of lr; set warmup lower"):
        train_toy(torch.sum, steps=2, warmup=5)


def test_a_stage_counts_its_tokens():
    assert StageConfig(steps=10, rows=2, length=16).tokens == 320


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_stage_and_step(bad):
    values = iter([1.0, bad])
    toy = Toy(lambda weight: weight.sum() + next(values))
    with pytest.raises(FloatingPointError, match=rf"toy: loss is {bad} at step 2; lower lr=0\.1"):
        run_stage("toy", toy, list(toy.parameters()), toy_batches(), config(lr=0.1))
    assert torch.isfinite(toy.weight).all()


def test_a_gradient_that_is_not_finite_names_stage_and_step():
    # The root has a finite value at zero and an infinite slope.
    toy = Toy(lambda weight: weight.abs().sum().sqrt())
    with pytest.raises(FloatingPointError, match=r"toy: the gradient's norm is (nan|inf) at step 1"):
        run_stage("toy", toy, list(toy.parameters()), toy_batches(), config())
    assert toy.weight.item() == 0.0


def test_an_empty_stream_is_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="policy: the stream holds no batch"):
        run("policy", batches=iter([]), log=tmp_path / "new" / "log.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_stream_that_ends_early_says_when(tmp_path):
    log = tmp_path / "log.jsonl"
    with pytest.raises(ValueError, match=r"policy: the stream ended after 3 of 8 steps.*in another folder"):
        run("policy", batches=islice(Batches(), 3), log=log)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3]


def test_batches_that_do_not_fit_are_refused():
    batch = next(Batches())
    with pytest.raises(ValueError, match="policy: got a batch of 4 rows for rows=2"):
        run("policy", batches=iter([batch]), rows=2)
    none = Batch(**{**vars(batch), "targets": torch.full_like(batch.targets, IGNORED)})
    with pytest.raises(ValueError, match="policy: the batch of step 2 has no target"):
        run("policy", batches=iter([batch, none]))


def test_what_is_trained_is_what_requires_gradients():
    toy = Toy(lambda weight: weight.sum())
    with pytest.raises(ValueError, match="the 1 parameters to train are not the 2 of Toy"):
        run_stage("toy", toy, [toy.weight], toy_batches(), config())


def test_the_cross_entropy_of_no_target_is_zero():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    loss = target_cross_entropy(logits, torch.full((2, 3), IGNORED))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_what_the_batches_say_is_logged(tmp_path):
    class Told(Batches):
        def figures(self) -> dict[str, float]:
            return {"epoch/here": 1 + self._drawn // 2}

    _, records = run("policy", steps=3, batches=Told())
    assert [record["epoch/here"] for record in records] == [1, 2, 2]
