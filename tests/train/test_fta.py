"""Fine-tuning under actions: what it trains, under whose codes, and how its gradient runs."""

from __future__ import annotations

import copy
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from cola_agents.model.modeling import CoLAForCausalLM, shift_codes
from cola_agents.model.text import PlainTokenizer
from cola_agents.train.adapters import BASE, Adapters, LoRA, load_adapters
from cola_agents.train.clone import clone_policy
from cola_agents.train.data.documents import Document
from cola_agents.train.data.packing import IGNORED, Batch, PackedBatches, collate
from cola_agents.train.data.sources import GeneratedDocuments
from cola_agents.train.fta import Codes, TuneLoss, tune_base
from cola_agents.train.options import StageConfig, paper_fta
from tests import tiny
from tests.official import FIXTURES, read_model

CODES: tuple[Codes, ...] = ("inverse", "policy")
#: The recorded gradients of the official code under the codes of inverse dynamics and of the policy.
RECORDS = {"inverse": "vq_mode_det0", "policy": "default_mode_det0"}
FOLDERS = sorted(path.parent for path in FIXTURES.glob("*/grads.json"))


@pytest.fixture
def batches(tiny_tokenizer) -> PackedBatches:
    plain = PlainTokenizer(tiny_tokenizer)
    return PackedBatches(GeneratedDocuments(0), plain, rows=4, length=160, long="cut", learn_prompts=False)


def snapshot(model: CoLAForCausalLM) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(before: dict[str, torch.Tensor], model: CoLAForCausalLM) -> set[str]:
    return {
        name.split(".")[0] for name, tensor in model.state_dict().items() if not tensor.equal(before[name])
    }


@pytest.mark.parametrize("codes", CODES)
def test_fta_trains_the_base_alone_and_lowers_the_loss(codes, batches, tmp_path):
    model, log = tiny.make_cola(), tmp_path / "log.jsonl"
    before = snapshot(model)
    config = StageConfig(steps=16, rows=4, length=160, warmup=2, lr=3e-3, weight_decay=0.0, log_every=2)
    records = tune_base(model, codes, batches, config, log)
    assert moved(before, model) == {"base", "lm_head"}
    assert all(
        not tensor.equal(before[name])
        for name, tensor in model.state_dict().items()
        if name.split(".")[0] in ("base", "lm_head")
    ), "and all of it: embeddings, layers, final norm, head"
    assert records[-1]["world_ce"] < records[0]["world_ce"] - 0.3
    assert (
        json.loads(log.read_text().splitlines()[0])["stage"] == {"inverse": "fta-i", "policy": "fta-p"}[codes]
    )
    assert not model.training


@torch.no_grad()
@pytest.mark.parametrize("codes", CODES)
def test_the_loss_is_that_of_continuations_under_argmax_codes(cola, codes, batches, tiny_tokenizer):
    batch = next(batches)
    loss, figures = TuneLoss(cola, codes)(batch, [])
    plain = PlainTokenizer(tiny_tokenizer)
    total = count = 0.0
    for document in islice(GeneratedDocuments(0), int(sum(batch.segments.amax(1) + 1))):
        prompt = plain.encode(document.prompt)
        ids = torch.tensor([[*prompt, *plain.encode(document.continuation), 0]])[:, :160]
        h = cola.hidden(ids)
        logits = shift_codes(cola.infer(h)) if codes == "inverse" else cola.policy(h)
        gold = cola.world(h, logits.argmax(-1)).log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])
        total -= gold[max(0, len(prompt) - 1) :].sum().item()
        count += len(gold) - max(0, len(prompt) - 1)
    assert int((batch.targets != IGNORED).sum()) == count
    assert loss.item() == pytest.approx(total / count, abs=1e-4)
    assert figures["world_ce"].item() == loss.item()


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_base_gets_the_official_gradient(folder: Path, codes):
    """FTA-I and FTA-P of the official version 2 (and FTA-I of version 1), parameter by parameter."""
    model = read_model(folder)
    ids = load_file(folder / "golden.safetensors")["input_ids"]
    expected = json.loads((folder / "grads.json").read_text())[RECORDS[codes]]
    loss, _ = TuneLoss(model, codes)(collate([[row] for row in ids.tolist()], ids.shape[1]), [])
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-4)
    loss.backward()
    compared = 0
    for name, parameter in (*model.base.named_parameters(), ("lm_head.weight", model.lm_head.weight)):
        norm = expected["grad_norm"][name if name.startswith("lm_head") else f"model.{name}"]
        assert parameter.grad is not None
        assert parameter.grad.norm().item() == pytest.approx(norm, abs=1e-4, rel=1e-4), name
        compared += 1
    assert compared > 20
    for module in (model.inverse_trunk, model.policy_trunk):
        assert module is not None
        assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_fta_p_differs_on_purpose_from_the_official_version_1(folder: Path):
    """There the base learns through -h alone. A small step along ours lowers the loss, and by more."""
    ids = load_file(folder / "golden.safetensors")["input_ids"]
    batch = collate([[row] for row in ids.tolist()], ids.shape[1])
    after = {}
    for way in ("ours", "official"):
        model = read_model(folder)
        loss, _ = TuneLoss(model, "policy")(batch, [])
        if way == "official":
            h = model.hidden(ids)
            codes = model.policy(h).argmax(-1)
            z = h
            for layer in model.merge:
                z = z + layer(z, model.codebook(codes))
            logits = model.lm_head(model.base.norm(z).detach() - h)
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        before = loss.item()
        layers = list(model.base.layers.parameters())
        gradients = torch.autograd.grad(loss, layers)
        if way == "official":
            recorded = json.loads((folder / "grads.json").read_text())["default_mode_det1"]["grad_norm"]
            name = "layers.0.mlp.down_proj.weight"
            (at,) = [i for i, (key, _) in enumerate(model.base.named_parameters()) if key == name]
            (first,) = [i for i, p in enumerate(layers) if p is list(model.base.parameters())[at]]
            assert gradients[first].norm().item() == pytest.approx(recorded[f"model.{name}"], rel=1e-3)
        with torch.no_grad():
            size = torch.stack([g.norm() for g in gradients]).norm()
            for parameter, gradient in zip(layers, gradients, strict=True):
                parameter -= 1e-2 * gradient / size
            codes = model.policy(model.hidden(ids)).argmax(-1)
            after[way] = TuneLoss(model, "policy")(batch, [])[0].item() - before
    assert after["ours"] < 0
    assert after["ours"] < after["official"]


def test_what_is_subtracted_passes_a_gradient_only_where_the_configuration_says_so(batches):
    batch = next(batches)
    norms = []
    for detached in (True, False):
        model = tiny.make_cola("difference", detach_state=detached)
        TuneLoss(model, "policy")(batch, [])[0].backward()
        norms.append(model.base.embed_tokens.weight.grad.norm().item())
    assert norms[0] != pytest.approx(norms[1], rel=1e-3)


def test_without_inverse_dynamics_there_is_fta_p_alone(batches):
    model = tiny.make_cola(num_inverse_layers=0)
    with pytest.raises(ValueError, match="no inverse dynamics"):
        TuneLoss(model, "inverse")
    config = StageConfig(steps=1, rows=4, length=160)
    assert tune_base(model, "policy", batches, config)[0]["world_ce"] > 0
    wrong: Any = "both"
    with pytest.raises(ValueError, match=r"codes='both' is not one of \('inverse', 'policy'\)"):
        TuneLoss(model, wrong)


def test_the_policy_is_cloned_again_on_continuations_alone(batches):
    model = tiny.make_cola()
    batch = next(batches)
    with torch.no_grad():
        h = model.hidden(batch.ids, mask=batch.mask, positions=batch.positions)
        codes = shift_codes(model.infer(h, mask=batch.mask, positions=batch.positions)).argmax(-1)
        log_pi = model.policy(h, mask=batch.mask, positions=batch.positions).log_softmax(-1)
        where = batch.targets != IGNORED
        expected = -log_pi[where].gather(-1, codes[where][:, None]).mean()
    (record,) = clone_policy(model, iter([batch]), StageConfig(steps=1, rows=4, length=160))
    assert record["clone_ce"] == pytest.approx(expected.item(), abs=1e-4)


def test_the_defaults_are_the_papers():
    config = paper_fta(400)
    assert (config.lr, config.rows, config.betas) == (5e-6, 256, (0.9, 0.95))
    assert (config.weight_decay, config.clip, config.final, config.warmup) == (0.0, 1.0, 0.1, 12)
    assert (config.length, config.precision) == (2048, "bf16")
    assert config.rate(400) == pytest.approx(0.1, abs=1e-3)
    assert paper_fta(10, length=512, rows=8).length == 512


# ------------------------------------------------------------------ low-rank adapters


def tuned(batches: PackedBatches, **lora: Any) -> tuple[CoLAForCausalLM, Adapters, dict[str, torch.Tensor]]:
    model = tiny.make_cola()
    before = snapshot(model)
    torch.manual_seed(0)
    adapters = Adapters(model, LoRA(**lora))
    config = StageConfig(steps=4, rows=4, length=160, warmup=1, lr=1e-2, weight_decay=0.0)
    tune_base(model, "inverse", batches, config, adapters=adapters)
    return model, adapters, before


def some_ids() -> torch.Tensor:
    return torch.randint(1, tiny.TOKENIZER, (2, 20), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_fresh_adapters_change_nothing():
    model, ids = tiny.make_cola(), some_ids()
    h = model.hidden(ids)
    Adapters(model, LoRA(rank=4))
    assert torch.equal(model.hidden(ids), h)


def test_adapters_learn_in_place_of_the_weights_and_merge_exactly(batches):
    model, adapters, before = tuned(batches, rank=4)
    assert len(adapters.parameters) == 2 * 7 * 2, "A and B of seven layers in each of two"
    kept = {
        name.replace(".base_layer", ""): t for name, t in model.state_dict().items() if "lora_" not in name
    }
    assert all(tensor.equal(before[name]) for name, tensor in kept.items())
    ids = some_ids()
    with torch.no_grad():
        h = model.hidden(ids)
        adapters.merge()
        assert set(model.state_dict()) == set(before), "an ordinary model again"
        torch.testing.assert_close(model.hidden(ids), h, atol=1e-4, rtol=1e-4)
    assert moved(before, model) == {"base"}


@torch.no_grad()
def test_kept_adapters_go_onto_the_base_that_they_were_trained_on(batches, tmp_path):
    with torch.enable_grad():
        model, adapters, before = tuned(batches, rank=2, alpha=8.0)
    ids = some_ids()
    h = model.hidden(ids)
    adapters.save(tmp_path / "adapters")
    adapters.remove()
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert set(model.state_dict()) == set(before)
    load_adapters(model, tmp_path / "adapters")
    torch.testing.assert_close(model.hidden(ids), h, atol=1e-4, rtol=1e-4)
    assert set(model.state_dict()) == set(before)
    with pytest.raises(FileNotFoundError, match=r"no adapter_config\.json"):
        load_adapters(model, tmp_path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"hidden_size": 64}, r"has the shape \[32, 2\], and this base has 64 there"),
        ({"num_hidden_layers": 1}, r"layers\.1\..* and this base has no such layer"),
        ({"num_hidden_layers": 3}, r"there are none for layers\.2\.mlp\.down_proj, .* of this base"),
    ],
)
def test_adapters_of_another_model_are_refused_and_change_nothing(tmp_path, other, message):
    Adapters(tiny.make_cola(), LoRA(rank=2)).save(tmp_path / "adapters")
    model = tiny.make_cola(base=tiny.make_base(**other))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"holds adapters of another model: .*{message}"):
        load_adapters(model, tmp_path / "adapters")
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(tensor.equal(before[name]) for name, tensor in after.items())


def test_adapters_of_another_base_of_the_same_shapes_are_refused_and_change_nothing(tmp_path):
    made = tiny.make_cola(base=tiny.make_base(0))
    adapters = Adapters(made, LoRA(rank=2))
    with torch.no_grad():
        for weight in adapters.parameters:
            weight.normal_()
    adapters.save(tmp_path / "adapters")
    adapters.remove()
    trained_further = copy.deepcopy(made)
    with torch.no_grad():
        trained_further.base.layers[1].mlp.up_proj.weight[0, 0] += 0.5
    for model in (tiny.make_cola(base=tiny.make_base(1)), trained_further):
        before = snapshot(model)
        with pytest.raises(ValueError, match=r"a base with other weights than this model's.*Give the model"):
            load_adapters(model, tmp_path / "adapters")
        assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    # The same base in another type is the same base, and what was saved without digests is loaded as before.
    low = made.to(torch.bfloat16)
    again = copy.deepcopy(low).float()
    for model in (low, again):
        before = snapshot(model)
        load_adapters(model, tmp_path / "adapters")
        assert moved(before, model) == {"base"}
    (tmp_path / "adapters" / BASE).write_text('{"sha256": "abc"}')
    with pytest.raises(ValueError, match=r"base\.json is damaged.*got 'abc'"):
        load_adapters(trained_further, tmp_path / "adapters")
    (tmp_path / "adapters" / BASE).unlink()
    load_adapters(trained_further, tmp_path / "adapters")


def test_adapters_that_cannot_be_are_refused(monkeypatch):
    for fields, message in (
        ({"rank": 0}, r"^rank \(--lora-rank\) must be at least 1, got 0$"),
        ({"rank": 2, "targets": ()}, "^targets must name layers to adapt"),
        ({"rank": 2, "alpha": 0.0}, "alpha must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            LoRA(**fields)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'cola-rl\[train\]'"):
        Adapters(tiny.make_cola(), LoRA(rank=2))


def test_a_batch_without_prompts_counts_every_next_token(tiny_tokenizer):
    plain = PlainTokenizer(tiny_tokenizer)
    some = [Document("", "one two"), Document("", "three")]
    masked: list[Batch] = list(PackedBatches(some, plain, rows=1, length=64, learn_prompts=False))
    every: list[Batch] = list(PackedBatches(some, plain, rows=1, length=64))
    assert torch.equal(masked[0].targets, every[0].targets)
