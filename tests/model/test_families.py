"""Bases of every supported family: what Hugging Face's own, unmodified model gives is the reference."""

from __future__ import annotations

import copy
import functools
import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.loading import BUNDLED, load_bundled, make_backbone
from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.families import FAMILIES, CappedLinear, activation, capped, decoder_mask
from cola_agents.model.modeling import CoLAForCausalLM, calibrate_readout
from cola_agents.rl.grpo import GRPO
from cola_agents.train.base import pretrain_base
from cola_agents.train.bundled.recipe import corpus_batches
from cola_agents.train.bundled.settings import CorpusConfig
from cola_agents.train.data.packing import IGNORED, collate
from cola_agents.train.options import StageConfig
from cola_agents.train.world import pretrain_world
from cola_envs import Turn
from tests import tiny

WINDOW = 8
LAYERS = 3
SHARED: dict[str, Any] = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": tiny.CONTEXT,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
# Caps so low that a forgotten one shows.
CAPS = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0}
CONFIGS: dict[str, Any] = {
    "llama": (LlamaConfig, {"attention_bias": True, "head_dim": 12}),
    "mistral": (MistralConfig, {"sliding_window": WINDOW}),
    "qwen2": (Qwen2Config, {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen3": (
        Qwen3Config,
        {
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 2,
            "head_dim": 16,
            "tie_word_embeddings": True,
        },
    ),
    "gemma": (GemmaConfig, {"head_dim": 16}),
    "gemma2": (
        Gemma2Config,
        {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 24, **CAPS},
    ),
    "gemma3_text": (
        Gemma3TextConfig,
        {
            "head_dim": 16,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}
TIED = {"qwen3", "gemma", "gemma2", "gemma3_text"}
WINDOWED = ("mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
each_family = pytest.mark.parametrize("family", CONFIGS)


def drawn_norms(model: Any, seed: int) -> None:
    """Draw the norms' weights around what they are, so that a wrong one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


@functools.cache
def base_of(family: str) -> Any:
    """Hugging Face's own tiny random model."""
    torch.manual_seed(0)
    cls, changed = CONFIGS[family]
    base = AutoModelForCausalLM.from_config(cls(**{**SHARED, **changed})).eval()
    drawn_norms(base, 1)
    return base


@functools.cache
def cola_of(family: str, readout: str = "state") -> Any:
    torch.manual_seed(2)
    model = CoLAForCausalLM.from_base(
        base_of(family),
        num_codes=tiny.CODES,
        num_inverse_layers=1,
        num_merge_layers=2,
        num_policy_layers=LAYERS + 2,
        readout=readout,
    ).eval()
    drawn_norms(model.policy_trunk, 3)
    drawn_norms(model.inverse_trunk, 4)
    with torch.no_grad():
        model.codebook.weight *= 3
    return model


def some_ids(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(1, tiny.TOKENIZER) for _ in range(count)]


def play(session: Any, seed: int, check: Any, *, steps: int = 14) -> None:
    """Loads, forks, roll-backs and extensions in a random order; ``check(rows)`` after each."""
    rng = random.Random(seed)
    truth: list[list[int]] = [some_ids(rng, rng.randint(1, 30)) for _ in range(4)]
    session.load(range(4), truth)
    check([0, 1, 2, 3])
    longest = 0
    for _ in range(steps):
        rows = rng.sample(range(4), rng.randint(1, 4))
        kind = rng.random()
        if kind < 0.3:
            for row in rows:
                source = truth[rng.randrange(4)]
                truth[row] = [*source[: rng.randint(0, len(source))], *some_ids(rng, rng.randint(1, 25))]
            session.load(rows, [truth[row] for row in rows])
        else:
            chunks = [some_ids(rng, 1 if kind < 0.7 else rng.randint(1, 12)) for _ in rows]
            for row, chunk in zip(rows, chunks, strict=True):
                truth[row] = truth[row] + chunk
            session.extend(rows, chunks)
        assert session.tokens == truth
        check(rows)
        longest = max(longest, *map(len, truth))
    assert longest > 3 * WINDOW


# ------------------------------------------------------------------ sessions


def test_every_family_is_tested():
    assert set(CONFIGS) == set(FAMILIES)
    for family in CONFIGS:
        assert base_of(family).config.model_type == family


@each_family
def test_ragged_token_rows_equal_one_forward_of_the_unmodified_model(family, tiny_tokenizer):
    base = base_of(family)
    session = TokenBackbone(base, tiny_tokenizer).session(4)

    @torch.no_grad()
    def check(rows):
        prior = session.prior(rows)
        for i, row in enumerate(rows):
            ids = torch.tensor([session.tokens[row]])
            h = base.model(ids).last_hidden_state[0]
            torch.testing.assert_close(session.states(row), h, atol=1e-4, rtol=0)
            logits = base(ids).logits[0, -1, : tiny.TOKENIZER]
            np.testing.assert_allclose(prior[i, : tiny.TOKENIZER], logits.log_softmax(-1), atol=1e-4)

    play(session, 0, check)


@each_family
def test_ragged_latent_rows_and_their_followers_equal_full_forwards(family, tiny_tokenizer):
    base, model = base_of(family), cola_of(family)
    session = LatentBackbone(model, tiny_tokenizer).session(4)
    rng = random.Random(9)
    asked = 0

    @torch.no_grad()
    def check(rows):
        nonlocal asked
        for row in rows:
            h = base.model(torch.tensor([session.tokens[row]])).last_hidden_state[0]
            torch.testing.assert_close(session.states(row), h, atol=1e-4, rtol=0)
        if rng.random() < 0.5:
            asked += 1
            prior = session.prior(rows)
            for i, row in enumerate(rows):
                h = base.model(torch.tensor([session.tokens[row]])).last_hidden_state
                features = model.policy_trunk(inputs_embeds=h, use_cache=False).last_hidden_state
                log_pi = model.policy_head(features)[0, -1].log_softmax(-1)
                np.testing.assert_allclose(prior[i], log_pi, atol=1e-4)

    play(session, 1, check)
    assert asked > 2


@each_family
@torch.no_grad()
def test_greedy_tokens_of_a_session_equal_generate(family, tiny_tokenizer):
    base = base_of(family)
    rng = random.Random(2)
    prompts = [some_ids(rng, n) for n in (3, 21, 9)]
    session = TokenBackbone(base, tiny_tokenizer).session(3)
    session.load(range(3), prompts)
    allowed = torch.arange(tiny.VOCAB) < tiny.TOKENIZER
    for _ in range(2 * WINDOW):
        chosen = session.policy([0, 1, 2]).argmax(-1)
        session.extend(range(3), [[int(token)] for token in chosen])
    for row, prompt in enumerate(prompts):
        told = base.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=2 * WINDOW,
            do_sample=False,
            eos_token_id=None,
            suppress_tokens=(~allowed).nonzero().flatten().tolist(),
        )
        assert session.tokens[row] == told[0].tolist()


@pytest.mark.parametrize("family", WINDOWED)
@torch.no_grad()
def test_the_windows_matter_in_these_tests(family):
    """Without its window the tiny model gives other states: the tests above would notice."""
    base = base_of(family)
    wide = copy.deepcopy(base)
    for module in wide.modules():
        if hasattr(module, "config"):
            module.config.sliding_window = 1000
    ids = torch.tensor([some_ids(random.Random(3), 30)])
    far = (base.model(ids).last_hidden_state - wide.model(ids).last_hidden_state)[0].abs().amax(-1)
    assert far[:WINDOW].max() < 1e-5
    assert far[WINDOW + LAYERS :].min() > 1e-2


# ------------------------------------------------------------------ the model


@each_family
@torch.no_grad()
def test_stacks_read_hidden_states_as_they_are(family):
    """Gemma scales its embeddings; hidden states that are fed to a stack must not be."""
    model = cola_of(family)
    seen = []
    hook = model.policy_trunk.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        h = torch.randn(1, 5, 32)
        model.policy(h)
    finally:
        hook.remove()
    assert torch.equal(seen[0], h)


@each_family
def test_stacks_are_built_from_the_familys_own_layer(family):
    model = cola_of(family)
    own = {type(layer) for layer in base_of(family).model.layers}
    for stack, depth in ((model.inverse_trunk, 1), (model.policy_trunk, LAYERS + 2)):
        assert {type(layer) for layer in stack.layers} == own
        assert len(stack.layers) == depth
    types = getattr(base_of(family).config, "layer_types", None)
    if types is not None and FAMILIES[family] == "by layer type":
        assert model.policy_trunk.config.layer_types == [*types, *types[:2]]
    config = CoLAConfig(text_config=base_of(family).config.to_dict(), num_policy_layers=1)
    fresh: Any = CoLAForCausalLM(config)
    for norm in (fresh.base.norm, fresh.policy_trunk.norm, fresh.policy_trunk.layers[0].input_layernorm):
        ones = torch.ones(1, 32)
        torch.testing.assert_close(norm(ones), ones, msg="a fresh norm has gain 1")


@each_family
@torch.no_grad()
def test_the_base_inside_gives_the_base_models_logits(family, tmp_path):
    base = base_of(family)
    base.save_pretrained(tmp_path)
    ids = torch.tensor([some_ids(random.Random(4), 25), some_ids(random.Random(5), 25)])
    expected = base(ids).logits
    for source in (base, tmp_path, str(tmp_path)):
        model: Any = CoLAForCausalLM.from_base(source, num_codes=4, num_policy_layers=1, readout="state")
        model.eval()
        h = model.hidden(ids)
        torch.testing.assert_close(model.lm_head(h), expected, atol=1e-5, rtol=0)
        for layer in model.merge:
            layer.down_proj.weight.zero_()
        logits = model.world(h, torch.zeros_like(ids))
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0, msg="a silent world is the base")


def naive_generate(model: CoLAForCausalLM, row: torch.Tensor, steps: int) -> list[int]:
    row = row[None]
    for _ in range(steps):
        h = model.hidden(row)
        code = model.policy(h)[:, -1].argmax(-1)
        row = torch.cat([row, model.world(h[:, -1], code).argmax(-1)[:, None]], 1)
    return row[0].tolist()


@each_family
@torch.no_grad()
def test_generate_cached_uncached_padded_and_by_hand_agree(family):
    model = cola_of(family)
    rows = [torch.tensor(some_ids(random.Random(6), n)) for n in (14, 5)]
    steps = WINDOW + 4
    expected = [naive_generate(model, row, steps) for row in rows]
    ids = torch.zeros(2, 14, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for b, row in enumerate(rows):
        ids[b, -len(row) :] = row
        mask[b, -len(row) :] = 1
    for cached in (True, False):
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=steps, eos_token_id=None, use_cache=cached
        )
        for b, row in enumerate(rows):
            assert out[b, 14 - len(row) :].tolist() == expected[b], f"use_cache={cached}"
    assert len({tuple(row[-steps:]) for row in expected}) == 2


@each_family
@torch.no_grad()
def test_forward_in_pieces_over_one_cache_equals_one_pass(family):
    model = cola_of(family)
    ids = torch.tensor([some_ids(random.Random(7), 23), some_ids(random.Random(8), 23)])
    whole = model(ids)
    cache, logits, codes, end = DynamicCache(), [], [], 0
    for width in (3, 1, 10, 1, 8):
        start, end = end, end + width
        out = model(ids[:, start:end], cache=cache, use_cache=True)
        logits.append(out.logits)
        codes.append(out.action_logits)
    torch.testing.assert_close(torch.cat(codes, 1), whole.action_logits, atol=1e-4, rtol=0)
    # These logits run into the hundreds.
    torch.testing.assert_close(torch.cat(logits, 1), whole.logits, atol=1e-3, rtol=1e-4)


def packed(seed: int) -> tuple[Any, list[list[list[int]]]]:
    """Two rows of documents of unequal length, longer than the window, and the documents."""
    rng = random.Random(seed)
    rows = [[some_ids(rng, n) for n in lengths] for lengths in ((13, 20), (4, 11, 15))]
    return collate(rows, 36), rows


@each_family
@torch.no_grad()
def test_packed_documents_equal_each_document_alone(family):
    base, model = base_of(family), cola_of(family)
    batch, rows = packed(10)
    h = model.hidden(batch.ids, mask=batch.mask, positions=batch.positions)
    pi = model.policy(h, mask=batch.mask, positions=batch.positions)
    inferred = model.infer(h, mask=batch.mask, positions=batch.positions)
    for r, row in enumerate(rows):
        at = 0
        for document in row:
            alone = base.model(torch.tensor([document])).last_hidden_state
            here = slice(at, at + len(document))
            torch.testing.assert_close(h[r, here], alone[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(pi[r, here], model.policy(alone)[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(inferred[r, here], model.infer(alone)[0], atol=1e-4, rtol=0)
            at += len(document)


@each_family
def test_a_base_of_any_family_can_be_pretrained(family, tmp_path):
    """The first loss is the unmodified model's own cross-entropy, document by document."""
    base = copy.deepcopy(base_of(family))
    batch, rows = packed(11)
    total, count = 0.0, 0
    with torch.no_grad():
        for document in (d for row in rows for d in row):
            ids = torch.tensor([document])
            total += base(ids, labels=ids).loss.item() * (len(document) - 1)
            count += len(document) - 1
    assert count == int((batch.targets != IGNORED).sum())
    before = base.model.embed_tokens.weight.clone()
    stage = StageConfig(steps=1, rows=2, length=36, log_every=1)
    pretrain_base(base, iter([batch]), stage, tmp_path / "log.jsonl")
    record = json.loads((tmp_path / "log.jsonl").read_text())
    assert record["base_ce"] == pytest.approx(total / count, abs=1e-4)
    assert not torch.equal(base.model.embed_tokens.weight, before)


# ------------------------------------------------------------------ saving and loading


@each_family
@torch.no_grad()
def test_save_and_load_is_exact(family, tmp_path, tiny_tokenizer):
    model = cola_of(family, "normed_difference" if family in ("gemma2", "qwen2") else "state")
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    tied = family in TIED
    assert set(model.state_dict()) - set(stored) == ({"lm_head.weight"} if tied else set())
    ids = torch.tensor([some_ids(random.Random(12), 20)])
    expected = model(ids)
    for load in (CoLAForCausalLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
        loaded = load(tmp_path)
        assert isinstance(loaded, CoLAForCausalLM)
        assert (loaded.lm_head.weight is loaded.base.embed_tokens.weight) is tied
        assert isinstance(loaded.lm_head, CappedLinear) is (family == "gemma2")
        out = loaded(ids)
        assert torch.equal(out.logits, expected.logits)
        assert torch.equal(out.action_logits, expected.action_logits)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, CoLAConfig)
    assert config.text_config.model_type == family
    backbone = make_backbone(tmp_path, level="latent")
    assert backbone.fingerprint == LatentBackbone(model, tiny_tokenizer).fingerprint


@pytest.mark.parametrize("family", ["gemma2", "qwen2"])
def test_a_tied_head_can_be_untied_and_an_untied_one_not_tied(family, tmp_path):
    base = base_of(family)
    sizes: dict[str, Any] = {"num_codes": 4, "num_inverse_layers": 1, "num_policy_layers": 1}
    if family not in TIED:
        with pytest.raises(ValueError, match="tie_word_embeddings must be False"):
            CoLAForCausalLM.from_base(base, tie_word_embeddings=True, **sizes)
        return
    model = CoLAForCausalLM.from_base(base, tie_word_embeddings=False, **sizes).eval()
    assert model.lm_head.weight is not model.base.embed_tokens.weight
    with torch.no_grad():
        model.lm_head.weight *= 2
        ids = torch.tensor([[5, 6, 7]])
        model.save_pretrained(tmp_path)
        loaded = CoLAForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
        assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text"])
@torch.no_grad()
def test_bfloat16_sessions_run(family, tiny_tokenizer):
    model = copy.deepcopy(cola_of(family)).to(torch.bfloat16)
    session = LatentBackbone(model, tiny_tokenizer).session(2)
    session.load([0, 1], [[5] * 12, [6, 7, 8]])
    session.extend([1], [[9]])
    exact = base_of(family).model(torch.tensor([[6, 7, 8, 9]])).last_hidden_state[0, -1].numpy()
    np.testing.assert_allclose(session.hidden([1])[0], exact, atol=0.3)
    assert session.prior([0, 1]).shape == (2, tiny.CODES)


@torch.no_grad()
def test_eager_attention_gives_the_same_sessions(tmp_path, tiny_tokenizer):
    """Eager attention adds a mask where sdpa looks at it: a boolean one would count for nothing."""
    cola_of("mistral").save_pretrained(tmp_path)
    eager = CoLAForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.base.config._attn_implementation == eager.policy_trunk.config._attn_implementation == "eager"
    assert cola_of("mistral").base.config._attn_implementation == "sdpa"
    rows = [some_ids(random.Random(13), 20), some_ids(random.Random(14), 4)]
    seen = []
    for model in (eager, cola_of("mistral")):
        session = LatentBackbone(model, tiny_tokenizer).session(2)
        session.load([0, 1], rows)
        session.extend([0, 1], [[7], [8]])
        seen.append((session.hidden([0, 1]), session.prior([0, 1])))
    for one, other in zip(*seen, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


# ------------------------------------------------------------------ the readout with a norm of its own


def divergence(family: str, readout: str, calibrate: bool, base: Any = None) -> float:
    """Mean KL(base || world model) in nats: by how much more than the base's own cross-entropy the world
    model's is, on text that the base itself would write."""
    base = copy.deepcopy(base or base_of(family))
    base.config.initializer_range = 0.02  # of the new modules
    rng = random.Random(15)
    ids, other = (torch.tensor([some_ids(rng, 30) for _ in range(4)]) for _ in range(2))
    torch.manual_seed(0)
    model = CoLAForCausalLM.from_base(
        base,
        num_codes=tiny.CODES,
        num_inverse_layers=1,
        num_policy_layers=1,
        readout=readout,
        calibrate_on=ids if calibrate else None,
    ).eval()
    with torch.no_grad():
        h = model.hidden(other)
        p = model.lm_head(h).log_softmax(-1)
        q = model.world(h, torch.randint(tiny.CODES, other.shape)).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


@each_family
def test_normed_difference_starts_as_the_base_and_difference_does_not(family):
    assert divergence(family, "state", False) < 0.01
    assert divergence(family, "normed_difference", False) < 0.05
    assert divergence(family, "normed_difference", True) < 0.05
    assert divergence(family, "difference", False) > 0.3


def test_normed_difference_starts_as_a_base_with_one_huge_channel():
    """A channel of huge states that the final norm turns down, as large models have them: here the norm's
    weight alone would say that states are twice as large as they are."""
    base = copy.deepcopy(base_of("llama"))
    with torch.no_grad():
        base.model.embed_tokens.weight[:, 0] = 50.0
        base.model.norm.weight[0] = 0.02
        h = base.model(torch.tensor([some_ids(random.Random(0), 30)])).last_hidden_state
        assert h.square().mean().sqrt() < 0.6 * base.model.norm.weight.square().mean().sqrt()
    assert divergence("llama", "normed_difference", False, base) < 0.01
    assert divergence("llama", "normed_difference", True, base) < 0.01


def test_normed_difference_starts_at_the_cross_entropy_of_a_trained_base():
    base = load_bundled("base")
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED / "base")
    stage = StageConfig(steps=1, rows=4, length=128)
    batches = corpus_batches(16, tokenizer, stage, CorpusConfig())
    batch = next(batches)
    where, targets = batch.targets != IGNORED, batch.targets[batch.targets != IGNORED]
    gap = {}
    for readout in ("difference", "normed_difference"):
        torch.manual_seed(0)
        model = CoLAForCausalLM.from_base(
            base, num_codes=8, num_inverse_layers=1, num_policy_layers=1, readout=readout
        ).eval()
        with torch.no_grad():
            h = model.hidden(batch.ids, mask=batch.mask, positions=batch.positions)[where]
            own = functional.cross_entropy(model.lm_head(h), targets)
            codes = torch.randint(8, targets.shape)
            gap[readout] = (functional.cross_entropy(model.world(h, codes), targets) - own).item()
    assert abs(gap["normed_difference"]) < 0.05
    assert gap["difference"] > 1


def test_the_formula_and_the_gain_of_normed_difference():
    base = copy.deepcopy(base_of("gemma2"))
    sizes: dict[str, Any] = {"num_codes": 4, "num_policy_layers": 1}
    model: Any = CoLAForCausalLM.from_base(base, readout="normed_difference", **sizes)
    some = torch.tensor([some_ids(random.Random(18), 200)])
    about = 2 * model.hidden(some).square().mean().sqrt().item()
    assert model.readout_norm.weight.tolist() == pytest.approx([about] * 32, rel=0.02)
    ids = torch.tensor([some_ids(random.Random(17), 9)])
    h = model.hidden(ids).detach()
    calibrate_readout(model, ids)
    rms = h.square().mean(-1).sqrt().mean()
    torch.testing.assert_close(model.readout_norm.weight, (2 * rms).expand(32), atol=1e-5, rtol=0)
    padded = torch.cat([torch.zeros_like(ids[:, :3]), ids], 1)
    mask = (torch.arange(12) >= 3).long()[None]
    calibrate_readout(model, padded, mask=mask)
    torch.testing.assert_close(model.readout_norm.weight, (2 * rms).expand(32), atol=1e-5, rtol=0)
    z = h
    for layer in model.merge:
        z = z + layer(z, model.codebook.weight[2].expand_as(h))
    o = model.readout_norm.weight * z / (z.square().mean(-1, keepdim=True) + 1e-6).sqrt() - h
    expected = 3 * torch.tanh(o @ model.lm_head.weight.T / 3)
    torch.testing.assert_close(model.world(h, torch.full_like(ids, 2)), expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="'state' has no gain"):
        calibrate_readout(cola_of("gemma2"), ids)
    fresh: Any = CoLAForCausalLM(CoLAConfig(text_config=base.config.to_dict(), readout="normed_difference"))
    assert torch.equal(fresh.readout_norm.weight, torch.full((32,), 2.0))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_world_stage_trains_the_readouts_norm_and_no_other(family):
    model = copy.deepcopy(cola_of(family, "normed_difference"))
    before = copy.deepcopy(model.state_dict())
    batch, _ = packed(18)
    config = StageConfig(steps=2, rows=2, length=36, warmup=1)
    pretrain_world(model, iter([batch, batch]), config)
    now = model.state_dict()
    changed = {name.split(".")[0] for name in now if not torch.equal(now[name], before[name])}
    assert changed == {"readout_norm", "codebook", "merge", "inverse_trunk", "inverse_head"}
    h = model.hidden(batch.ids, mask=batch.mask, positions=batch.positions).detach()
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == changed
    model.zero_grad()
    model.world(h, torch.zeros_like(batch.ids)).square().mean().backward()
    assert (model.readout_norm.weight.grad.abs() > 0).all()


# ------------------------------------------------------------------ learning


class FirstIsAscii:
    """Begin with an ASCII character."""

    stop: tuple[str, ...] = ()

    def reset(self, rng: np.random.Generator) -> str:
        return f"Question {int(rng.integers(1000))}: what now?"

    def step(self, text: str) -> Turn:
        return Turn(reward=float(text[:1] != "" and text[:1].isascii()))


@each_family
@pytest.mark.parametrize("level", ["latent", "token"])
def test_a_grpo_update_changes_the_policys_weights_and_starts_on_policy(
    family, level, tiny_tokenizer, tmp_path
):
    model = cola_of(family) if level == "latent" else base_of(family)
    agent: Any = GRPO(
        "CoLA-Text-v0" if level == "latent" else "CoLA-Text-Token-v0",
        num_envs=8,
        model=model,
        tokenizer=tiny_tokenizer,
        env_kwargs={"task": FirstIsAscii, "max_tokens": 3},
        prompts=4,
        group_size=4,
        lr=1e-3,
    )
    rollout = agent.play(*agent.draw_seeds(2, 2))
    with torch.no_grad():
        scores = agent.policy.evaluate_actions(rollout, with_kl=False)
    torch.testing.assert_close(scores.log_probs, rollout.log_probs[rollout.mask], atol=1e-4, rtol=0)
    before = {name: p.detach().clone() for name, p in agent.actor.named_parameters()}
    kept = copy.deepcopy(model.state_dict())
    agent.update()
    changed = [n for n, p in agent.actor.named_parameters() if not torch.equal(p, before[n])]
    assert any(n.startswith("trunk.layers") for n in changed)
    tied = level == "token" and family in TIED
    if tied:
        assert agent.actor.head.weight is agent.actor.trunk.embed_tokens.weight
        assert agent.actor.head.weight is agent.backbone.model.lm_head.weight
        assert agent.policy.reference.head.weight is agent.policy.reference.trunk.embed_tokens.weight
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    agent.save(tmp_path / "agent")
    again = GRPO.load(
        tmp_path / "agent",
        model=model,
        tokenizer=tiny_tokenizer,
        env_kwargs={"task": FirstIsAscii, "max_tokens": 3},
    )
    loaded = again.actor.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in agent.actor.state_dict().items())


# ------------------------------------------------------------------ what is refused


def test_another_family_is_refused_by_name(tiny_tokenizer):
    config = PhiConfig(**{**SHARED, "bos_token_id": 1})
    base = AutoModelForCausalLM.from_config(config)
    message = r"model type 'phi' is not supported.*llama, mistral, qwen2, qwen3, gemma"
    with pytest.raises(ValueError, match=message):
        CoLAForCausalLM.from_base(base)
    with pytest.raises(ValueError, match=message):
        CoLAConfig(text_config=config)
    with pytest.raises(ValueError, match=message):
        TokenBackbone(base, tiny_tokenizer)
    with pytest.raises(ValueError, match=message):
        decoder_mask(base.model, torch.ones(1, 1, 3, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        ("gemma3_text", {"use_bidirectional_attention": True}, "both directions"),
        ("qwen2", {"use_sliding_window": False, "layer_types": ["sliding_attention"] * LAYERS}, "no sliding"),
    ],
)
def test_a_base_that_is_not_understood_is_refused(family, changed, message):
    cls, own = CONFIGS[family]
    with pytest.raises(ValueError, match=message):
        CoLAConfig(text_config=cls(**{**SHARED, **own, **changed}))


@pytest.mark.parametrize("field", [None, "relu"])
def test_gemma_1_takes_the_activation_that_its_own_layers_read(field):
    """Files of it may hold the field of Gemma 2 and 3 too, even as null."""
    config = GemmaConfig(**SHARED, head_dim=16)
    config.hidden_activation = field
    assert activation(config) == "gelu_pytorch_tanh"
    model = CoLAForCausalLM.from_base(AutoModelForCausalLM.from_config(config), num_codes=4)
    assert type(model.merge[0].activation) is type(model.base.layers[0].mlp.act_fn)


def test_a_decoder_without_a_head_is_no_base():
    with pytest.raises(ValueError, match="lm_head"):
        CoLAForCausalLM.from_base(AutoModel.from_config(base_of("qwen2").config))


def test_pickled_bases_are_refused(tmp_path):
    base_of("llama").config.save_pretrained(tmp_path)
    torch.save(base_of("llama").state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled weights"):
        CoLAForCausalLM.from_base(tmp_path)


def test_an_attention_that_takes_no_mask_is_refused():
    stack = copy.deepcopy(base_of("llama").model)
    stack.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="'sdpa' or 'eager'"):
        decoder_mask(stack, torch.ones(1, 1, 3, 3, dtype=torch.bool))


@torch.no_grad()
def test_a_capped_view_shares_its_weight_and_gives_the_models_logits():
    base = base_of("gemma2")
    head = capped(base.lm_head, base.config)
    assert head.weight is base.lm_head.weight
    ids = torch.tensor([[4, 5, 6]])
    torch.testing.assert_close(head(base.model(ids).last_hidden_state), base(ids).logits)
    assert base(ids).logits.abs().max() < CAPS["final_logit_softcapping"]
    assert base.lm_head(base.model(ids).last_hidden_state).abs().max() > CAPS["final_logit_softcapping"]
    assert isinstance(base, PreTrainedModel)
    assert capped(base_of("llama").lm_head, base_of("llama").config) is base_of("llama").lm_head
