"""The training stages: how documents are packed, what each stage changes, what is measured."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoTokenizer

from cola_agents.model.modeling import CoLAForCausalLM, shift_codes
from cola_agents.model.text import PlainTokenizer
from cola_agents.train.base import pretrain_base, tiny_llama
from cola_agents.train.bundled import recipe
from cola_agents.train.bundled.corpus import documents
from cola_agents.train.bundled.settings import Recipe
from cola_agents.train.clone import POLICY_MODULES, clone_policy
from cola_agents.train.data.documents import Document
from cola_agents.train.data.packing import IGNORED, collate, packed_batches
from cola_agents.train.learner import Learner
from cola_agents.train.metrics import measure
from cola_agents.train.options import CodeConfig, StageConfig
from cola_agents.train.stage import row_generators
from cola_agents.train.world import WORLD_MODULES, pretrain_world
from tests import tiny


@pytest.fixture
def plain(tiny_tokenizer) -> PlainTokenizer:
    return PlainTokenizer(tiny_tokenizer)


def test_collate_by_hand():
    batch = collate([[[5, 6, 7], [8, 9]], [[1]]], 6)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9, 0], [1, 0, 0, 0, 0, 0]]
    no = IGNORED
    assert batch.targets.tolist() == [[6, 7, no, 9, no, no], [no] * 6]
    assert batch.positions[0].tolist()[:5] == [0, 1, 2, 0, 1]
    assert batch.mask.shape == (2, 1, 6, 6)
    seen = batch.mask[0, 0].int().tolist()
    assert seen[:5] == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
    ]
    assert batch.mask.any(-1).all(), "a row that sees nothing would be NaN"


def drawn_documents(seed: int, count: int) -> list[Document]:
    return list(islice(documents(seed), count))


def test_packing_keeps_every_document_in_order_and_closes_it(plain):
    wanted = drawn_documents(3, 40)
    batches = list(packed_batches(wanted, plain, rows=2, length=400))
    ends = [
        (batch.ids[r], (batch.positions[r] == 0).nonzero().flatten().tolist())
        for batch in batches
        for r in range(len(batch.ids))
    ]
    texts = []
    for ids, starts in ends:
        for start in starts:
            tokens = ids[start:].tolist()
            if plain.eos_token_id in tokens and tokens[0] != plain.eos_token_id:
                texts.append(plain.decode(tokens[: tokens.index(plain.eos_token_id)]))
    assert texts == [document.text for document in wanted]
    assert all(batch.ids.shape[1] == 400 for batch in batches)


def test_prompt_and_continuation_are_tokenised_apart(plain):
    """As they are when a model continues a prompt, whatever merges would cross the border."""
    (batch,) = packed_batches([Document("Q: 1\nA", "nswer")], plain, rows=4, length=64)
    expected = [*plain.encode("Q: 1\nA"), *plain.encode("nswer"), plain.eos_token_id]
    assert batch.ids[0, : len(expected)].tolist() == expected
    assert batch.ids.shape == (1, 64)


def test_a_document_longer_than_a_row_is_cut(plain):
    long = Document("Story:", " cat" * 300)
    batches = list(packed_batches([long, Document("a", "b"), long], plain, rows=1, length=32))
    assert [batch.ids.shape for batch in batches] == [(1, 32)] * 3
    assert (batches[0].targets[0, :-1] != IGNORED).all()


@torch.no_grad()
def test_no_document_sees_another(cola, plain):
    """Hidden states of a packed row equal those of its documents alone."""
    batch = next(packed_batches(drawn_documents(5, 60), plain, rows=3, length=300))
    h = cola.hidden(batch.ids, mask=batch.mask, positions=batch.positions)
    inferred = cola.infer(h, mask=batch.mask, positions=batch.positions)
    policy = cola.policy(h, mask=batch.mask, positions=batch.positions)
    checked = 0
    for row in range(3):
        starts = ((batch.positions[row] == 0) & (batch.targets[row] != IGNORED)).nonzero().flatten().tolist()
        for start in starts:
            length = int((batch.targets[row, start:] == IGNORED).nonzero()[0]) + 1
            part = slice(start, start + length)
            alone = cola.hidden(batch.ids[row : row + 1, part])
            torch.testing.assert_close(h[row, part], alone[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(inferred[row, part], cola.infer(alone)[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(policy[row, part], cola.policy(alone)[0], atol=1e-4, rtol=0)
            checked += 1
    assert checked >= 6


@torch.no_grad()
def test_the_loss_of_a_batch_is_that_of_its_documents(tiny_base, plain):
    wanted = drawn_documents(6, 12)
    (batch,) = packed_batches(wanted, plain, rows=20, length=400)
    h = tiny_base.model(batch.ids, attention_mask=batch.mask, position_ids=batch.positions).last_hidden_state
    logits = tiny_base.lm_head(h)
    loss = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
    total, count = 0.0, 0
    for document in wanted:
        ids = [*plain.encode(document.prompt), *plain.encode(document.continuation), plain.eos_token_id]
        one = torch.tensor([ids])
        total += tiny_base(one, labels=one).loss.item() * (len(ids) - 1)
        count += len(ids) - 1
    assert int((batch.targets != IGNORED).sum()) == count
    assert loss.item() == pytest.approx(total / count, abs=1e-4)


# ------------------------------------------------------------------ stages


def batches_of(plain, seed: int, length: int = 96, rows: int = 4):
    return packed_batches(documents(seed), plain, rows=rows, length=length)


def changed(before: dict[str, torch.Tensor], model: torch.nn.Module) -> set[str]:
    """Names of the top modules in which a parameter moved."""
    return {
        name.split(".")[0]
        for name, tensor in model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_base_stage_trains_every_weight_and_lowers_the_loss(plain, tmp_path):
    model = tiny_llama(tiny.TOKENIZER, plain.eos_token_id)
    before = snapshot(model)
    log = tmp_path / "log.jsonl"
    config = StageConfig(steps=25, rows=4, length=96, warmup=5, log_every=5)
    pretrain_base(model, batches_of(plain, 0), config, log)
    assert all(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["step"] for record in records] == [5, 10, 15, 20, 25]
    assert {record["stage"] for record in records} == {"base"}
    assert records[-1]["base_ce"] < records[0]["base_ce"] - 0.5
    assert {"loss", "cpu_s"} <= set(records[0])


@pytest.mark.parametrize("readout", ["state", "difference"])
def test_the_world_stage_changes_its_own_modules_alone_and_lowers_the_cross_entropy(plain, readout, tmp_path):
    model = tiny.make_cola(readout)
    before, log = snapshot(model), tmp_path / "log.jsonl"
    config = StageConfig(steps=30, rows=4, length=96, warmup=5, log_every=5)
    pretrain_world(model, batches_of(plain, 0), config, log=log)
    assert changed(before, model) == set(WORLD_MODULES)
    assert not model.training
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert records[-1]["world_ce"] < records[0]["world_ce"] - 0.5


def test_the_policy_stage_changes_its_own_modules_alone_and_clones(plain, tmp_path):
    model = tiny.make_cola()
    before, log = snapshot(model), tmp_path / "log.jsonl"
    config = StageConfig(steps=30, rows=4, length=96, warmup=5, log_every=5)
    clone_policy(model, batches_of(plain, 0), config, log)
    assert changed(before, model) == set(POLICY_MODULES)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert records[-1]["clone_ce"] < records[0]["clone_ce"] - 0.2


def test_without_inverse_dynamics_there_is_nothing_to_train_on(plain):
    model = tiny.make_cola(num_inverse_layers=0)
    for stage in (pretrain_world, clone_policy):
        with pytest.raises(ValueError, match="no inverse dynamics"):
            stage(model, batches_of(plain, 0), StageConfig(steps=1))


def test_the_same_seed_trains_the_same_weights(plain):
    codebooks = []
    for seed in (0, 0, 1):
        model = tiny.make_cola()
        config = StageConfig(steps=3, rows=2, length=64, warmup=1, seed=seed)
        pretrain_world(model, batches_of(plain, 0, 64, 2), config)
        codebooks.append(model.codebook.weight.clone())
    assert torch.equal(codebooks[0], codebooks[1])
    assert not torch.equal(codebooks[0], codebooks[2]), "the noise of the stage has the stage's seed"


def test_the_first_loss_of_a_world_stage_by_hand(plain, tmp_path):
    model, codes = tiny.make_cola(), CodeConfig(tau=2.0, entropy=0.1, marginal=0.3)
    batch = next(batches_of(plain, 4, 64, 2))
    where = batch.targets != IGNORED
    with torch.no_grad():
        h = model.hidden(batch.ids, mask=batch.mask, positions=batch.positions)
        logits = shift_codes(model.infer(h, mask=batch.mask, positions=batch.positions))
        u = torch.stack([torch.rand(logits.shape[1:], generator=g) for g in row_generators(9, 1, range(2))])
        probs = torch.softmax((logits - torch.log(-torch.log(u))) / 2.0, -1)
        log_probs = model.world(h, probs.argmax(-1)).log_softmax(-1)
        ce = -log_probs[where].gather(-1, batch.targets[where][:, None]).mean()
        kept = probs[where]
        marginal = kept.mean(0)
        regulariser = 0.1 * (kept * kept.log()).sum(-1).mean() + 0.3 * (marginal * marginal.log()).sum()
    log = tmp_path / "log.jsonl"
    pretrain_world(model, iter([batch]), StageConfig(steps=1, seed=9), codes, log)
    record = json.loads(log.read_text())
    assert record["world_ce"] == pytest.approx(ce.item(), abs=1e-4)
    assert record["loss"] == pytest.approx((ce + regulariser).item(), abs=1e-4)


def test_the_last_token_of_a_document_has_no_code_to_learn(plain, tmp_path):
    """Where no next token follows, inverse dynamics reads another document's code."""
    model = tiny.make_cola()
    batch = next(batches_of(plain, 4, 64, 2))
    where = batch.targets != IGNORED
    with torch.no_grad():
        h = model.hidden(batch.ids, mask=batch.mask, positions=batch.positions)
        codes = shift_codes(model.infer(h, mask=batch.mask, positions=batch.positions)).argmax(-1)
        log_pi = model.policy(h, mask=batch.mask, positions=batch.positions).log_softmax(-1)
        ce = -log_pi[where].gather(-1, codes[where][:, None]).mean()
    log = tmp_path / "log.jsonl"
    clone_policy(model, iter([batch]), StageConfig(steps=1), log)
    assert json.loads(log.read_text())["clone_ce"] == pytest.approx(ce.item(), abs=1e-4)


# ------------------------------------------------------------------ metrics


@torch.no_grad()
@pytest.mark.parametrize("chunk", [7, 512])
def test_metrics_equal_a_document_by_document_count(cola: CoLAForCausalLM, plain, chunk):
    wanted = drawn_documents(8, 5)
    metrics = measure(cola, packed_batches(wanted, plain, rows=2, length=400), chunk)
    base = world = composed = entropy = 0.0
    reached = agreed = tokens = distinct = 0
    used: list[int] = []
    followed: list[int] = []
    mean_policy = torch.zeros(tiny.CODES)
    for document in wanted:
        ids = [*plain.encode(document.prompt), *plain.encode(document.continuation), plain.eos_token_id]
        row = torch.tensor([ids])
        h = cola.hidden(row)
        codes = cola.infer(h).argmax(-1)[0, 1:]
        policy = cola.policy(h)[0].log_softmax(-1)
        composed -= cola.composed_log_prob(row).sum().item()
        for t, gold in enumerate(ids[1:]):
            base -= cola.lm_head(h[0, t]).log_softmax(-1)[gold].item()
            every = cola.world(h[0, t].expand(tiny.CODES, -1), torch.arange(tiny.CODES))
            world -= every[codes[t]].log_softmax(-1)[gold].item()
            best = every.argmax(-1).tolist()
            reached += gold in best
            distinct += len(set(best))
            agreed += int(policy[t].argmax()) == int(codes[t])
            entropy -= (policy[t].exp() * policy[t]).sum().item()
            used.append(int(codes[t]))
            followed.append(gold)
            mean_policy += policy[t].exp()
            tokens += 1
    shares = [used.count(code) / tokens for code in set(used)]
    pairs = Counter(zip(used, followed, strict=True))
    information = sum(
        n / tokens * math.log(n * tokens / used.count(code) / followed.count(token))
        for (code, token), n in pairs.items()
    )
    cells = len(set(used)) + len(set(followed)) - len(pairs) - 1
    mean_policy /= tokens
    expected = {
        "base_ce": base / tokens,
        "world_ce": world / tokens,
        "composed_ce": composed / tokens,
        "codebook_perplexity": math.exp(-sum(s * math.log(s) for s in shares)),
        "codes_used": len(set(used)),
        "distinct_tokens": distinct / tokens,
        "reachability": reached / tokens,
        "policy_entropy": entropy / tokens,
        "clone_accuracy": agreed / tokens,
        "tokens": tokens,
        "num_codes": tiny.CODES,
        "dead_codes": tiny.CODES - len(set(used)),
        "composed_excess": (composed - base) / tokens,
        "mutual_information": information,
        "mutual_information_corrected": information + cells / (2 * tokens),
        "policy_perplexity": math.exp(-(mean_policy * mean_policy.log()).sum()),
        "states": tokens,
    }
    assert metrics.as_dict() == pytest.approx(expected, abs=2e-3)


# ------------------------------------------------------------------ the whole recipe


def test_a_fresh_state_model_starts_near_its_base(plain):
    """Small initial merges: composed and base cross-entropy agree before any training."""
    torch.manual_seed(0)
    base = tiny.make_base(initializer_range=0.02)
    model = CoLAForCausalLM.from_base(
        base, readout="state", num_codes=4, num_inverse_layers=1, num_policy_layers=1
    ).eval()
    metrics = measure(model, packed_batches(drawn_documents(8, 4), plain, rows=2, length=300)).as_dict()
    assert metrics["composed_ce"] == pytest.approx(metrics["base_ce"], abs=0.02)
    assert metrics["world_ce"] == pytest.approx(metrics["base_ce"], abs=0.02)


@pytest.fixture
def small_recipe(monkeypatch):
    monkeypatch.setattr(recipe, "TOKENIZER_DOCUMENTS", 150)
    stage = StageConfig(steps=2, rows=1, length=64, warmup=1, save_every=1)
    return Recipe(seed=3, vocab_size=300, base=stage, world=stage, policy=stage)


def weights_in(folder: Path) -> dict[str, bytes]:
    """The bytes of every model in a folder of bundled models, by the model's name."""
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/model.safetensors")}


def test_the_recipe_makes_one_base_and_the_codes_around_it(small_recipe, tmp_path):
    recipe.train_bundled(small_recipe, tmp_path / "one")
    recipe.train_bundled(small_recipe, tmp_path / "two")
    made = weights_in(tmp_path / "one")
    assert set(made) == {"base", "cola"}
    assert made == weights_in(tmp_path / "two"), "a seed makes the same models"
    base = recipe.LlamaForCausalLM.from_pretrained(tmp_path / "one" / "base")
    inside = CoLAForCausalLM.from_pretrained(tmp_path / "one" / "cola")
    assert weights_of(base.model) == weights_of(inside.base)
    assert weights_of(base.lm_head) == weights_of(inside.lm_head)
    for name in ("base", "cola"):
        assert len(AutoTokenizer.from_pretrained(tmp_path / "one" / name)) == 300
    assert json.loads((tmp_path / "one" / "recipe.json").read_text())["seed"] == 3
    assert json.loads((tmp_path / "one" / "cola" / "metrics.json").read_text())["tokens"] > 0


def weights_of(module: torch.nn.Module) -> dict[str, list[float]]:
    return {name: weight.tolist() for name, weight in module.state_dict().items()}


def test_a_recipe_that_was_stopped_goes_on_to_the_same_models(small_recipe, tmp_path, monkeypatch):
    recipe.train_bundled(small_recipe, tmp_path / "whole")
    recipe.train_controls(small_recipe, tmp_path / "whole")
    step = Learner.step
    done: list[str] = []

    def stopped(self, number, batch):
        done.append(type(self).__name__)
        if len(done) in (2, 4, 6, 9, 13):
            raise KeyboardInterrupt
        return step(self, number, batch)

    monkeypatch.setattr(Learner, "step", stopped)
    for _ in range(6):
        try:
            recipe.train_bundled(small_recipe, tmp_path / "parts")
            recipe.train_controls(small_recipe, tmp_path / "parts")
        except KeyboardInterrupt:
            continue
    # 2 + 2 + 2 steps, 4 + 4 + 2 of the controls, and each stop's own once more.
    assert len(done) == 16 + 5
    assert weights_in(tmp_path / "parts") == weights_in(tmp_path / "whole")
    logs = [tmp_path / run / "fta" / "log.jsonl" for run in ("parts", "whole")]
    assert [record_steps(log) for log in logs] == [record_steps(logs[0])] * 2


def record_steps(log: Path) -> list[tuple[str, int]]:
    return [(record["stage"], record["step"]) for record in map(json.loads, log.read_text().splitlines())]


def test_the_controls_read_as_many_tokens_as_the_stages_and_change_the_base(small_recipe, tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished bundled models"):
        recipe.train_controls(small_recipe, tmp_path)
    recipe.train_bundled(small_recipe, tmp_path)
    before = weights_in(tmp_path)
    recipe.train_controls(small_recipe, tmp_path)
    assert {name: weights_in(tmp_path)[name] for name in before} == before
    assert small_recipe.control.tokens == small_recipe.world.tokens + small_recipe.policy.tokens
    base, longer = (recipe.LlamaForCausalLM.from_pretrained(tmp_path / name) for name in ("base", "longer"))
    assert not base.lm_head.weight.equal(longer.lm_head.weight)
    cola, fta = (CoLAForCausalLM.from_pretrained(tmp_path / name) for name in ("cola", "fta"))
    for part in ("base.embed_tokens.weight", "policy_head.weight"):
        assert not cola.state_dict()[part].equal(fta.state_dict()[part]), part
    for part in ("codebook.weight", "inverse_head.weight"):
        assert cola.state_dict()[part].equal(fta.state_dict()[part]), part


def test_a_model_of_spans_grows_around_the_same_base_and_goes_on_where_it_was_stopped(
    small_recipe, tmp_path, monkeypatch
):
    with pytest.raises(FileNotFoundError, match="no finished bundled models"):
        recipe.train_variant(small_recipe, tmp_path, "span-4")
    recipe.train_bundled(small_recipe, tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    recipe.train_variant(small_recipe, tmp_path, "span-4")
    base = CoLAForCausalLM.from_pretrained(tmp_path / "cola").base
    model = CoLAForCausalLM.from_pretrained(tmp_path / "span-4")
    assert model.config.span == 4
    assert weights_of(model.base) == weights_of(base)

    monkeypatch.setattr(recipe, "train_policy", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        recipe.train_variant(small_recipe, tmp_path / "copy", "span-4")
    monkeypatch.undo()
    monkeypatch.setattr(Learner, "step", count_steps(done := []))
    recipe.train_variant(small_recipe, tmp_path / "copy", "span-4")
    assert len(done) == small_recipe.policy.steps, "the world stage is not run again"
    assert weights_in(tmp_path / "copy")["span-4"] == weights_in(tmp_path)["span-4"]


def count_steps(done: list[int]) -> Callable[..., object]:
    step = Learner.step

    def counted(self, number, batch):
        done.append(number)
        return step(self, number, batch)

    return counted


def test_a_folder_of_another_recipe_is_left_alone(small_recipe, tmp_path):
    recipe.train_bundled(small_recipe, tmp_path)
    before = weights_in(tmp_path)
    other = replace(small_recipe, seed=4)
    for train in (recipe.train_bundled, recipe.train_controls):
        with pytest.raises(FileExistsError, match="another recipe"):
            train(other, tmp_path)
    assert weights_in(tmp_path) == before


def test_measuring_changes_nothing(cola, plain):
    before = snapshot(cola)
    measure(cola, packed_batches(drawn_documents(8, 2), plain, rows=1, length=300))
    assert not changed(before, cola)


@pytest.mark.parametrize("stage", [pretrain_world, clone_policy])
def test_a_stage_that_is_refused_freezes_nothing(stage, plain):
    model = tiny.make_cola(num_inverse_layers=0)
    batches = packed_batches(documents(3), plain, rows=2, length=48)
    with pytest.raises(ValueError, match="inverse dynamics"):
        stage(model, batches, StageConfig(steps=1, rows=2, length=48))
    assert all(parameter.requires_grad for parameter in model.parameters())
