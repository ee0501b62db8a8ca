"""The latent-action model: two roads to every number."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import DynamicCache, GenerationConfig

from cola_agents.configuration import CoLAConfig
from cola_agents.modeling import CoLAForCausalLM, CoLAOutput, positions_of, shift_codes
from tests import tiny

B, T, D, A, V = 3, 7, 32, tiny.CODES, tiny.VOCAB
OFFICIAL = ("v1_gqa_c64", "v1_mqa_c16", "v1_llama3rope_c64")


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(1, tiny.TOKENIZER, (B, T), generator=torch.Generator().manual_seed(3))


def left_padded(ids: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The first ``lengths[b]`` ids of each row, pushed to the right, and the padding mask."""
    padded, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for b, n in enumerate(lengths):
        padded[b, -n:] = ids[b, :n]
        mask[b, -n:] = 1
    return padded, mask


@torch.no_grad()
def test_shapes_of_every_road(cola, ids):
    h = cola.hidden(ids)
    codes = torch.zeros(B, T, dtype=torch.long)
    assert h.shape == (B, T, D)
    assert cola.infer(h).shape == (B, T, A)
    assert cola.policy(h).shape == (B, T, A)
    assert cola.world(h, codes).shape == (B, T, V)
    assert cola.world(h[:, -1], codes[:, -1]).shape == (B, V)
    assert cola.composed_log_prob(ids).shape == (B, T - 1)
    out = cola(ids, labels=ids, use_cache=True)
    assert isinstance(out, CoLAOutput)
    assert out.logits.shape == (B, T, V)
    assert out.actions.shape == (B, T)
    assert out.action_logits.shape == (B, T, A)
    assert out.loss.shape == ()
    assert out.past_key_values.get_seq_length() == T
    assert cola(ids, logits_to_keep=1).logits.shape == (B, 1, V)


@torch.no_grad()
def test_world_with_a_code_per_row_equals_one_row_at_a_time(cola, ids):
    h = cola.hidden(ids)[:, -1]
    codes = torch.tensor([5, 0, 11])
    together = cola.world(h, codes)
    for b in range(B):
        torch.testing.assert_close(together[b], cola.world(h[b], codes[b]), atol=1e-4, rtol=0)
    assert (cola.world(h, codes.flip(0)) - together).abs().max() > 0.1, "codes make no difference"


@torch.no_grad()
def test_world_equals_the_published_formula(cola, ids):
    """Spec 1.2 written out with matrix products alone."""
    h = cola.hidden(ids)[:, -1]
    codes = torch.tensor([5, 0, 11])
    e = cola.codebook.weight[codes]
    z = h
    for layer in cola.merge:
        x = torch.cat([z, e], -1)
        gate, up = x @ layer.gate_proj.weight.T, x @ layer.up_proj.weight.T
        z = z + (gate / (1 + torch.exp(-gate)) * up) @ layer.down_proj.weight.T
    if cola.config.readout == "difference":
        eps = cola.config.text_config.rms_norm_eps
        z = cola.base.norm.weight * z / torch.sqrt((z**2).mean(-1, keepdim=True) + eps) - h
    torch.testing.assert_close(cola.world(h, codes), z @ cola.lm_head.weight.T, atol=1e-4, rtol=0)


@torch.no_grad()
def test_state_readout_without_merge_is_the_base_itself(tiny_cola, tiny_cola_difference, ids):
    for model, is_base in ((tiny_cola, True), (tiny_cola_difference, False)):
        silent = copy.deepcopy(model)
        for layer in silent.merge:
            layer.down_proj.weight.zero_()
        h = silent.hidden(ids)
        codes = torch.arange(B * T).view(B, T) % A
        same = torch.equal(silent.world(h, codes), silent.lm_head(h))
        assert same is is_base


def test_shift_codes_reads_the_next_position_and_keeps_the_last():
    codes = torch.tensor([[3, 1, 4], [1, 5, 9]])
    assert shift_codes(codes).tolist() == [[1, 4, 4], [5, 9, 9]]
    logits = torch.arange(12.0).view(1, 3, 4)
    assert torch.equal(shift_codes(logits)[0], logits[0, [1, 2, 2]])


def test_positions_count_real_tokens_and_are_one_at_pads():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    assert positions_of(mask).tolist() == [[1, 1, 0, 1, 2], [0, 1, 2, 3, 4]]


@torch.no_grad()
def test_hidden_of_left_padded_rows_equals_unpadded(cola, ids):
    lengths = [4, 7, 2]
    padded, mask = left_padded(ids, lengths)
    h = cola.hidden(padded, mask=mask)
    inferred, policy = cola.infer(h, mask=mask), cola.policy(h, mask=mask)
    world = cola(padded, attention_mask=mask).logits
    for b, n in enumerate(lengths):
        alone = cola.hidden(ids[b : b + 1, :n])
        torch.testing.assert_close(h[b, -n:], alone[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(inferred[b, -n:], cola.infer(alone)[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(policy[b, -n:], cola.policy(alone)[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(world[b, -n:], cola(ids[b : b + 1, :n]).logits[0], atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("pieces", [(1, 1, 5), (4, 3), (3, 1, 1, 1, 1)])
def test_forward_in_pieces_over_one_cache_equals_one_pass(cola, ids, pieces, padded):
    mask = torch.ones_like(ids)
    if padded:
        ids, mask = left_padded(ids, [5, 7, 3])
    whole = cola(ids, attention_mask=mask)
    cache, logits, action_logits, end = DynamicCache(), [], [], 0
    for width in pieces:
        start, end = end, end + width
        out = cola(
            ids[:, start:end],
            attention_mask=mask[:, :end] if padded else None,
            past_key_values=cache,
            use_cache=True,
        )
        logits.append(out.logits)
        action_logits.append(out.action_logits)
    layers = cola.config.text_config.num_hidden_layers + cola.config.num_policy_layers
    assert len(cache.layers) == layers, "base and policy share one cache"
    assert cache.get_seq_length() == T
    real = mask.bool()
    torch.testing.assert_close(torch.cat(logits, 1)[real], whole.logits[real], atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cat(action_logits, 1)[real], whole.action_logits[real], atol=1e-4, rtol=0)


def naive_generate(model: CoLAForCausalLM, row: torch.Tensor, steps: int) -> list[int]:
    """Recompute everything for every token."""
    row = row[None]
    for _ in range(steps):
        h = model.hidden(row)
        code = model.policy(h)[:, -1].argmax(-1)
        row = torch.cat([row, model.world(h[:, -1], code).argmax(-1)[:, None]], 1)
    return row[0].tolist()


@torch.no_grad()
def test_generate_cached_uncached_padded_and_by_hand_agree(cola, ids):
    settings = {"max_new_tokens": 12, "eos_token_id": None}
    expected = [naive_generate(cola, row, 12) for row in ids]
    assert cola.generate(ids, **settings).tolist() == expected
    assert cola.generate(ids, use_cache=False, **settings).tolist() == expected
    lengths = [4, 7, 2]
    padded, mask = left_padded(ids, lengths)
    out = cola.generate(padded, attention_mask=mask, **settings)
    for b, n in enumerate(lengths):
        assert out[b, -n - 12 :].tolist() == naive_generate(cola, ids[b, :n], 12)


@torch.no_grad()
def test_generate_stops_at_the_end_of_text(cola, ids):
    greedy = naive_generate(cola, ids[0], 6)
    out = cola.generate(ids[:1], max_new_tokens=12, eos_token_id=greedy[T + 2])
    assert out[0].tolist() == greedy[: greedy.index(greedy[T + 2], T) + 1]


@torch.no_grad()
def test_generate_with_do_sample_draws_codes_and_only_codes(cola, ids):
    greedy = cola.generate(ids, max_new_tokens=8, eos_token_id=None)
    torch.manual_seed(0)
    drawn = cola.generate(ids, do_sample=True, max_new_tokens=8, eos_token_id=None)
    assert not torch.equal(drawn, greedy)
    row = drawn[0]
    for t in range(T, len(row)):
        h = cola.hidden(row[None, :t])[:, -1].expand(A, -1)
        assert row[t] in cola.world(h, torch.arange(A)).argmax(-1), "a token that no code's argmax gives"
    same = {"do_sample": True, "max_new_tokens": 8, "eos_token_id": None}
    for narrow in ({"top_k": 1}, {"temperature": 1e-4}, {"top_p": 1e-4}):
        assert torch.equal(cola.generate(ids, **narrow, **same), greedy)
        config = GenerationConfig(**narrow, **same)
        assert torch.equal(cola.generate(ids, generation_config=config), greedy), "settings in a config count"


def test_generate_refuses_beams(cola, ids):
    with pytest.raises(ValueError, match="num_beams must be 1"):
        cola.generate(ids, num_beams=2)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 5, 256])
def test_composed_log_prob_equals_a_plain_sum_over_codes(cola, ids, chunk):
    h = cola.hidden(ids)
    pi = cola.policy(h).softmax(-1)
    expected = torch.zeros(B, T - 1)
    for b in range(B):
        for t in range(T - 1):
            probability = 0.0
            for code in range(A):
                p = cola.world(h[b, t], torch.tensor(code)).softmax(-1)
                probability += pi[b, t, code].item() * p[ids[b, t + 1]].item()
            expected[b, t] = math.log(probability)
    torch.testing.assert_close(cola.composed_log_prob(ids, chunk=chunk), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_composed_probabilities_sum_to_one(tiny_cola, ids):
    every = torch.cat([ids[:1, :3].expand(V, -1), torch.arange(V)[:, None]], 1)
    total = tiny_cola.composed_log_prob(every)[:, -1].logsumexp(0)
    assert abs(total.item()) < 1e-4


@torch.no_grad()
def test_labels_give_the_shifted_cross_entropy(cola, ids):
    labels = ids.clone()
    labels[0, :4] = -100
    out = cola(ids, labels=labels)
    log_probs = out.logits.log_softmax(-1)
    wanted = [
        -log_probs[b, t - 1, labels[b, t]].item()
        for b in range(B)
        for t in range(1, T)
        if labels[b, t] != -100
    ]
    assert out.loss.item() == pytest.approx(sum(wanted) / len(wanted), abs=1e-4)


@torch.no_grad()
def test_given_actions_replace_the_policy(cola, ids):
    codes = torch.arange(B * T).view(B, T) % A
    out = cola(ids, actions=codes)
    torch.testing.assert_close(out.logits, cola.world(cola.hidden(ids), codes), atol=1e-5, rtol=0)
    assert torch.equal(out.actions, codes)


def test_world_loss_reaches_codebook_and_merge(cola, ids):
    model = copy.deepcopy(cola)
    h = model.hidden(ids).detach()
    e = torch.full((B, T, A), 1 / A, requires_grad=True)
    functional.cross_entropy(model.world_from_vectors(h, e @ model.codebook.weight)[0], ids[0]).backward()
    assert model.codebook.weight.grad.abs().sum() > 0
    assert all(layer.gate_proj.weight.grad.abs().sum() > 0 for layer in model.merge)
    assert e.grad.abs().sum() > 0


@torch.no_grad()
def test_save_and_load_is_exact_and_in_safetensors_only(cola, ids, tmp_path):
    cola.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert "model.safetensors" in files
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in files)
    loaded, report = CoLAForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert loaded.config.readout == cola.config.readout
    assert loaded.config.num_codes == A
    assert torch.equal(loaded(ids).logits, cola(ids).logits)
    assert set(load_file(tmp_path / "model.safetensors")) == set(cola.state_dict())


def test_pickled_weights_are_refused(cola, tmp_path):
    cola.config.save_pretrained(tmp_path)
    torch.save(cola.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        CoLAForCausalLM.from_pretrained(tmp_path)


def test_from_base_keeps_the_base_and_accepts_a_path(tiny_base, ids, tmp_path):
    tiny_base.save_pretrained(tmp_path)
    sizes = {"num_codes": 4, "num_inverse_layers": 1, "num_policy_layers": 1}
    for source in (tiny_base, str(tmp_path), Path(tmp_path)):
        model = CoLAForCausalLM.from_base(source, **sizes).eval()
        with torch.no_grad():
            logits = model.lm_head(model.hidden(ids))
            torch.testing.assert_close(logits, tiny_base(ids).logits, atol=1e-5, rtol=0)


def test_from_base_unties_a_tied_head(ids):
    base = tiny.make_base(tie_word_embeddings=True)
    model = CoLAForCausalLM.from_base(base, num_codes=4, num_inverse_layers=1, num_policy_layers=1).eval()
    assert model.lm_head.weight is not model.base.embed_tokens.weight
    with torch.no_grad():
        torch.testing.assert_close(model.lm_head(model.hidden(ids)), base(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"readout": "sum"}, "readout 'sum'"),
        ({"num_codes": 1}, "num_codes must be at least 2, got 1"),
        ({"num_merge_layers": 0}, "num_merge_layers must be at least 1"),
        ({"num_policy_layers": 0}, "num_policy_layers"),
        ({"num_inverse_layers": 0}, "num_inverse_layers"),
    ],
)
def test_config_refuses_what_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        CoLAConfig(**fields)


def test_config_round_trips(cola, tmp_path):
    cola.config.save_pretrained(tmp_path)
    loaded = CoLAConfig.from_pretrained(tmp_path)
    assert loaded.text_config.to_dict()["num_key_value_heads"] == 2
    assert (loaded.hidden_size, loaded.vocab_size) == (D, V)
    assert loaded.max_position_embeddings == tiny.CONTEXT
    assert loaded.eos_token_id == 0


# ------------------------------------------------------------------ the official code's own values

needs_fixtures = pytest.mark.skipif(not tiny.FIXTURES.is_dir(), reason="no ../shared/fixtures here")


def close(ours: torch.Tensor, theirs: torch.Tensor, where: torch.Tensor | None = None) -> None:
    if where is not None:
        ours, theirs = ours[where.bool()], theirs[where.bool()]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@needs_fixtures
@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "lp_"])
@pytest.mark.parametrize("folder", OFFICIAL)
def test_forward_values_are_the_official_ones(folder, prefix):
    model, golden = tiny.official(folder)
    ids = golden[f"{prefix}input_ids"]
    mask = golden["lp_attention_mask"] if prefix else torch.ones_like(ids)
    given = mask if prefix else None

    def value(name: str) -> torch.Tensor:
        return golden[prefix + name]

    if prefix:
        assert torch.equal(positions_of(mask), value("position_ids"))
    h = model.hidden(ids, mask=given)
    close(h, value("base_hidden"), mask)
    inferred = model.infer(h, mask=given)
    close(inferred, value("idm_logits"), mask)
    policy = model.policy(h, mask=given)
    close(policy, value("act_policy_logits_tau1"), mask)
    codes = shift_codes(inferred.argmax(-1))
    assert torch.equal(codes[mask.bool()], value("vq_action_idx")[mask.bool()])
    close(model.world(h, codes), value("vq_logits"), mask)
    every = [model.world(h[:, -1], torch.full((len(ids),), a)) for a in range(model.config.num_codes)]
    close(torch.stack(every), value("wm_logits_all_actions_last"))
    close(model.world(h, torch.full_like(ids, 3)), value("fixed_action3_logits"), mask)
    out = model(ids, attention_mask=given)
    assert torch.equal(out.actions[mask.bool()], value("greedy_action_idx")[mask.bool()])
    close(out.logits, value("greedy_logits"), mask)


@needs_fixtures
@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "lp_"])
@pytest.mark.parametrize("folder", OFFICIAL)
def test_generated_sequences_are_the_official_ones(folder, prefix):
    model, golden = tiny.official(folder)
    ids = golden[f"{prefix}input_ids"]
    mask = golden["lp_attention_mask"] if prefix else torch.ones_like(ids)
    expected = golden[f"{prefix}gen_sequences"]
    for cached in (True, False):
        out = model.generate(ids, attention_mask=mask, max_new_tokens=16, eos_token_id=None, use_cache=cached)
        assert torch.equal(out, expected)
    eos = int(golden[f"{prefix}geneos_eos_token_id"])
    out = model.generate(ids, attention_mask=mask, max_new_tokens=16, eos_token_id=eos, pad_token_id=0)
    assert torch.equal(out, golden[f"{prefix}geneos_sequences"][:, : out.shape[1]])
