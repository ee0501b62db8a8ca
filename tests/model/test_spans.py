"""Codes that last several tokens: where spans lie, what the model and its stages make of them."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.spans import code_posterior, ends_from_everywhere, find_spans, read_codes
from cola_agents.model.text import PlainTokenizer
from cola_agents.train.bundled.corpus import documents
from cola_agents.train.clone import POLICY_MODULES, clone_policy, span_codes
from cola_agents.train.data.packing import IGNORED, Batch, collate, packed_batches
from cola_agents.train.fta import BASE_MODULES, TuneLoss, tune_base
from cola_agents.train.metrics import measure
from cola_agents.train.options import CodeConfig, StageConfig
from cola_agents.train.stage import row_generators
from cola_agents.train.world import WORLD_MODULES, WorldLoss, pretrain_world, random_spans
from tests import tiny

A = tiny.CODES
QUICK = StageConfig(steps=4, rows=4, length=48, lr=1e-2, warmup=1, log_every=1)


@pytest.fixture
def plain(tiny_tokenizer: Any) -> PlainTokenizer:
    return PlainTokenizer(tiny_tokenizer)


def rows_by_hand(config: CoLAConfig, ids: list[int], offset: int) -> list[tuple[int, int, int]]:
    """Phase, start and end of every state of one document, one token after the other."""
    k, last = config.span, len(ids) - 1
    closing = set(config.span_ends or ())
    phase, start, out = offset % k, 0, []
    for t in range(len(ids)):
        if ids[t] in closing or (t and phase == k):
            phase, start = 0, t
        end = next((j for j in range(t + 1, last) if j == t - phase + k or ids[j] in closing), last)
        out.append((phase, start, end))
        phase += 1
    return out


@pytest.mark.parametrize("span_ends", [None, [3, 4]])
@pytest.mark.parametrize("offset", [0, 1, 2])
def test_spans_follow_each_other_and_end_with_their_document(offset, span_ends):
    config = tiny.make_cola(span=3, span_ends=span_ends).config
    generator = torch.Generator().manual_seed(offset)
    first, second = (torch.randint(5, 9, (n,), generator=generator).tolist() for n in (11, 7))
    first[4], first[5], second[2] = 3, 4, 4
    batch = collate([[first, second]], 20)
    closing = torch.isin(batch.ids, torch.tensor(span_ends)) if span_ends else None
    spans = find_spans(3, batch.ids, batch.segments, torch.full_like(batch.ids, offset), closing)
    found = list(zip(*(x[0].tolist() for x in spans), strict=True))
    assert found[:11] == rows_by_hand(config, first, offset)
    assert found[11:18] == [(p, s + 11, e + 11) for p, s, e in rows_by_hand(config, second, offset)]
    ends = ends_from_everywhere(3, batch.ids, batch.segments, closing)[0].tolist()
    for t in range(10):
        stops = [j for j in range(t + 1, 11) if first[j] in (span_ends or ())]
        assert ends[t] == min([t + 3, 10, *stops[:1]])


def test_a_span_of_one_token_is_the_model_without_spans(tiny_base):
    plain, one = tiny.make_cola(), tiny.make_cola(span=1)
    assert {n: w.tolist() for n, w in plain.state_dict().items()} == {
        n: w.tolist() for n, w in one.state_dict().items()
    }
    assert one.phases is None


def test_a_grown_model_of_spans_predicts_exactly_what_its_base_does(tiny_base):
    model = CoLAForCausalLM.from_base(tiny_base, span=4)
    ids = torch.randint(tiny.VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
    h = model.hidden(ids)
    assert model.phases is not None
    assert not model.phases.weight.any()
    for phase in range(4):
        logits = model.world(h, torch.zeros_like(ids), phase)
        assert torch.equal(logits, tiny_base(ids).logits)


def test_one_code_gives_other_tokens_in_another_phase():
    model = tiny.make_spans()
    h = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    codes = torch.arange(5)
    each = [model.world(h, codes, phase) for phase in range(3)]
    assert not torch.equal(each[0], each[1])
    assert torch.equal(each[0], model.world(h, codes))
    mixed = model.world(h, codes, torch.tensor([0, 1, 2, 1, 0]))
    for n, phase in enumerate([0, 1, 2, 1, 0]):
        torch.testing.assert_close(mixed[n], each[phase][n])


@torch.no_grad()
@pytest.mark.parametrize(("span_ends", "unsure"), [(None, False), ([7], False), (None, True), ([7], True)])
def test_generation_holds_a_code_for_its_whole_span(span_ends, unsure):
    model = tiny.make_spans(span_ends=span_ends)
    if unsure:
        set_entropy(model)
    ids = torch.randint(tiny.VOCAB, (1, 5), generator=torch.Generator().manual_seed(2))
    row, phase, code, chosen = ids, 0, torch.zeros(1), []
    for _ in range(11):
        h = model.hidden(row)
        if unsure and entropy(model, h)[0, -1] > model.config.span_entropy:
            phase = 0
        if phase == 0:
            code = model.policy(h)[:, -1].argmax(-1)
        chosen.append(phase == 0)
        row = torch.cat([row, model.world(h[:, -1], code, phase).argmax(-1)[:, None]], 1)
        phase = 0 if phase == 2 or int(row[0, -1]) in (span_ends or ()) else phase + 1
    settings = {"max_new_tokens": 11, "eos_token_id": None}
    assert model.generate(ids, **settings).tolist() == row.tolist()
    assert model.generate(ids, use_cache=False, **settings).tolist() == row.tolist()
    assert model.generate(ids, **settings).tolist() == row.tolist(), "no code is left from the last call"
    assert 4 <= sum(chosen) < 11
    if unsure:
        assert sum(chosen) > 4, "some spans end early"


@torch.no_grad()
def entropy(model: CoLAForCausalLM, h: torch.Tensor) -> torch.Tensor:
    """The entropy of the base's prediction in each state, in nats."""
    log_probs = model.lm_head(h).log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


@torch.no_grad()
def set_entropy(model: CoLAForCausalLM) -> None:
    """Let the spans of a model end in half of the states of random text."""
    ids = torch.randint(tiny.VOCAB, (4, 32), generator=torch.Generator().manual_seed(8))
    model.config.span_entropy = entropy(model, model.hidden(ids)).median().item()


@torch.no_grad()
@pytest.mark.parametrize("span_ends", [None, [7]])
def test_a_span_ends_where_the_base_is_unsure_what_comes_next(span_ends):
    model = tiny.make_spans(span_ends=span_ends)
    ids = torch.randint(tiny.VOCAB, (3, 20), generator=torch.Generator().manual_seed(4))
    h = model.hidden(ids)
    ended = torch.zeros_like(ids, dtype=torch.bool) if span_ends is None else ids == 7
    found = model.closing(ids, h)
    assert found is None if span_ends is None else torch.equal(found, ended)
    set_entropy(model)
    closing = model.closing(ids, h, chunk=7)
    assert torch.equal(closing, ended | (entropy(model, h) > model.config.span_entropy))
    assert 0 < closing.float().mean() < 1
    spans = find_spans(3, ids, closing=closing)
    assert bool((spans.phase[closing] == 0).all()), "a code is chosen anew in every such state"


@torch.no_grad()
def test_composed_log_probs_add_up_to_those_of_whole_spans():
    model = tiny.make_spans()
    ids = torch.randint(tiny.VOCAB, (2, 8), generator=torch.Generator().manual_seed(3))
    h, found = model.hidden(ids), model.composed_log_prob(ids, chunk=3)
    log_pi = model.policy(h).log_softmax(-1)
    for row in range(2):
        for start in (0, 3, 6):
            total = log_pi[row, start].clone()
            for phase in range(min(3, 7 - start)):
                t = start + phase
                logits = model.world(h[row, t].expand(A, -1), torch.arange(A), phase)
                total += logits.log_softmax(-1)[:, ids[row, t + 1]]
                assert found[row, start : t + 1].sum().item() == pytest.approx(
                    total.logsumexp(0).item(), abs=1e-4
                )


def test_the_posterior_of_a_spans_first_state_is_the_policy():
    log_pi = torch.randn(1, 6, A).log_softmax(-1)
    posterior = code_posterior(log_pi, torch.randn(1, 6, A), torch.tensor([[0, 0, 0, 3, 3, 3]]))
    torch.testing.assert_close(posterior[:, [0, 3]], log_pi[:, [0, 3]])
    assert not torch.allclose(posterior[:, 1], log_pi[:, 0])


# ------------------------------------------------------------------ training


def batch_of(plain: PlainTokenizer, rows: int = 3, length: int = 64) -> Batch:
    return next(iter(packed_batches(documents(3), plain, rows=rows, length=length)))


def test_the_world_loss_by_hand(plain):
    model, batch = tiny.make_spans(), batch_of(plain)
    objective = WorldLoss(model, CodeConfig(entropy=0.0, marginal=0.0))
    generators = row_generators(0, 1, range(3))
    loss, _ = objective(batch, generators)
    phases = torch.stack([torch.randint(3, (64,), generator=g) for g in row_generators(0, 1, range(3))])
    noise = []
    for generator in row_generators(0, 1, range(3)):
        torch.randint(3, (64,), generator=generator)
        u = torch.rand((64, A), generator=generator).clamp(1e-10, 1 - 1e-7)
        noise.append(-torch.log(-torch.log(u)))
    h = model.hidden(batch.ids, mask=batch.mask, positions=batch.positions)
    logits = model.infer(h, mask=batch.mask, positions=batch.positions)
    total, count = 0.0, 0
    for row in range(3):
        for document in range(int(batch.segments[row].max()) + 1):
            at = (batch.segments[row] == document).nonzero().flatten().tolist()
            ids = batch.ids[row, at].tolist()
            places = rows_by_hand(model.config, ids, int(phases[row, at[0]]))
            for t, (phase, _, end) in enumerate(places):
                gold = int(batch.targets[row, at[t]])
                if gold == IGNORED:
                    continue
                read = at[end]
                code = (logits[row, read] + noise[row][read]).argmax()
                predicted = model.world(h[row, at[t]], code, phase).log_softmax(-1)
                total, count = total - predicted[gold].item(), count + 1
    assert loss.item() == pytest.approx(total / count, abs=1e-4)


def test_the_inverse_dynamics_learns_from_every_token_of_a_span(plain):
    """The gradient of a span's third token reaches the code that is read at its end."""
    model = tiny.make_spans()
    ids = torch.randint(5, tiny.TOKENIZER, (7,), generator=torch.Generator().manual_seed(0)).tolist()
    batch = collate([[ids]], 7)
    targets = torch.full_like(batch.targets, IGNORED)
    targets[0, 2] = batch.targets[0, 2]
    alone = Batch(batch.ids, targets, batch.positions, batch.segments)
    seed = next(
        s for s in range(99) if torch.randint(3, (7,), generator=row_generators(s, 1, range(1))[0])[0] == 0
    )
    WorldLoss(model, CodeConfig(entropy=0.0, marginal=0.0))(alone, row_generators(seed, 1, range(1)))[
        0
    ].backward()
    assert model.inverse_head is not None
    assert model.phases is not None
    assert model.inverse_head.weight.grad.abs().sum() > 0
    assert model.phases.weight.grad.abs().sum(1).gt(0).tolist() == [False, False, True]


def test_the_stages_train_their_own_modules_and_the_vectors_of_phases(plain, tmp_path):
    model = tiny.make_spans()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def changed() -> set[str]:
        now = model.state_dict()
        return {name.split(".")[0] for name in now if not torch.equal(now[name], before[name])}

    def batches() -> Any:
        return packed_batches(documents(3), plain, rows=4, length=48)

    pretrain_world(model, batches(), QUICK)
    assert changed() == {*WORLD_MODULES, "phases"}
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    clone_policy(model, batches(), QUICK)
    assert changed() == set(POLICY_MODULES)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    tune_base(model, "policy", batches(), QUICK)
    assert changed() <= set(BASE_MODULES)
    assert changed()


def test_the_policy_learns_in_every_state_the_code_of_the_span_that_would_begin_there(plain):
    model, batch = tiny.make_spans(), batch_of(plain, rows=1)
    h = model.hidden(batch.ids, mask=batch.mask, positions=batch.positions)
    logits = model.infer(h, mask=batch.mask, positions=batch.positions)
    codes = span_codes(model, batch, h, logits)
    ends = (batch.segments[0, 1:] != batch.segments[0, :-1]).nonzero().flatten().tolist()
    for t in range(40):
        read = min([t + 3, *[end for end in ends if end >= t]])
        assert codes[0, t] == logits[0, read].argmax()


@torch.no_grad()
@pytest.mark.parametrize("codes", ["inverse", "policy"])
def test_tuning_reads_codes_where_their_source_gives_them(plain, codes):
    model, batch = tiny.make_spans(), batch_of(plain)
    loss, _ = TuneLoss(model, codes)(batch, row_generators(0, 1, range(3)))
    h = model.hidden(batch.ids, mask=batch.mask, positions=batch.positions)
    spans = random_spans(model, batch, h, row_generators(0, 1, range(3)))
    assert spans is not None
    source = model.infer if codes == "inverse" else model.policy
    logits = source(h, mask=batch.mask, positions=batch.positions)
    taken = read_codes(logits, spans.end if codes == "inverse" else spans.start).argmax(-1)
    predicted = model.world(h, taken, spans.phase)
    expected = torch.nn.functional.cross_entropy(predicted.flatten(0, 1), batch.targets.flatten())
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("rows", [1, 2])
def test_the_loss_of_micro_batches_is_that_of_the_batch(plain, rows):
    """Spans are drawn for each row, whatever micro-batch it is in."""
    model, batch = tiny.make_spans(), batch_of(plain, rows=2)
    objective = WorldLoss(model, CodeConfig(entropy=0.0, marginal=0.0))
    whole = objective(batch, row_generators(0, 1, range(2)))[0].item()
    parts = [
        (batch.part(at, at + rows), row_generators(0, 1, range(at, at + rows))) for at in range(0, 2, rows)
    ]
    counts = [int((part.targets != IGNORED).sum()) for part, _ in parts]
    losses = [objective(part, generators)[0].item() for part, generators in parts]
    mean = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    assert mean == pytest.approx(whole, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [7, None])
def test_metrics_of_spans_equal_a_document_by_document_count(plain, chunk):
    model, wanted = tiny.make_spans(), list(islice(documents(8), 4))
    metrics = measure(model, packed_batches(wanted, plain, rows=2, length=400), chunk)
    world = composed = entropy = 0.0
    tokens = choices = agreed = 0
    for document in wanted:
        ids = [*plain.encode(document.prompt), *plain.encode(document.continuation), plain.eos_token_id]
        row = torch.tensor([ids])
        h = model.hidden(row)
        codes, log_pi = model.infer(h).argmax(-1)[0], model.policy(h)[0].log_softmax(-1)
        composed -= model.composed_log_prob(row).sum().item()
        for t, (phase, _, end) in enumerate(rows_by_hand(model.config, ids, 0)[:-1]):
            world -= model.world(h[0, t], codes[end], phase).log_softmax(-1)[ids[t + 1]].item()
            tokens += 1
            if phase == 0:
                choices += 1
                entropy -= (log_pi[t].exp() * log_pi[t]).sum().item()
                agreed += int(log_pi[t].argmax() == codes[end])
    expected = (world / tokens, composed / tokens, entropy / choices, agreed / choices)
    found = (metrics.world_ce, metrics.composed_ce, metrics.policy_entropy, metrics.clone_accuracy)
    assert found == pytest.approx(expected, abs=2e-3)
    assert math.isfinite(metrics.distinct_tokens)


# ------------------------------------------------------------------ configuration and checkpoints


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"span": 0}, "span must be at least 1"),
        ({"span": tiny.CONTEXT}, f"does not fit the base's context of {tiny.CONTEXT} tokens"),
        ({"span_ends": [4]}, "span is 1"),
        ({"span": 2, "span_ends": [tiny.VOCAB]}, "token ids of the base"),
        ({"span_entropy": 1.0}, "span is 1"),
        ({"span": 2, "span_entropy": -1.0}, "nats above 0"),
        ({"span": 2, "span_entropy": float("nan")}, "nats above 0"),
    ],
)
def test_a_span_that_cannot_be_is_refused(tiny_base, fields, message):
    with pytest.raises(ValueError, match=message):
        CoLAForCausalLM.from_base(tiny_base, **fields)


def test_a_saved_model_keeps_its_span_and_refuses_another(tmp_path):
    model = tiny.make_spans(span_ends=[9, 4])
    model.save_pretrained(tmp_path, whole=True)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (again.config.span, again.config.span_ends) == (3, [4, 9])
    ids: Tensor = torch.arange(6)[None]
    codes = torch.tensor([[3, 3, 3, 5, 5, 5]])
    phases = torch.tensor([[0, 1, 2, 0, 1, 2]])
    assert torch.equal(
        again(ids, actions=codes, phases=phases).logits, model(ids, actions=codes, phases=phases).logits
    )
    assert CoLAForCausalLM.from_pretrained(tmp_path, span=3).config.span == 3
    for asked in ({"span": 4}, {"config": tiny.make_cola(span=2).config}):
        with pytest.raises(ValueError, match="were trained to last 3 token"):
            CoLAForCausalLM.from_pretrained(tmp_path, **asked)
    assert "codes of 3 tokens each" in (tmp_path / "README.md").read_text()
