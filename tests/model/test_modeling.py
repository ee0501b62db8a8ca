"""The latent-action model: two roads to every number."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import DynamicCache, GenerationConfig

from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.modeling import CoLAForCausalLM, positions_of, shift_codes
from cola_agents.model.sizes import GROWTH
from cola_agents.train.presets import PRESETS
from tests import tiny

B, T, D, A, V = 3, 7, 32, tiny.CODES, tiny.VOCAB


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
    out: Any = cola(ids, labels=ids, use_cache=True)
    assert type(out).__name__ == "CoLAOutput"
    assert out.logits.shape == (B, T, V)
    assert out.actions.shape == (B, T)
    assert out.action_logits.shape == (B, T, A)
    assert out.loss.shape == ()
    assert out.cache.get_seq_length() == T
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
            cache=cache,
            use_cache=True,
        )
        logits.append(out.logits)
        action_logits.append(out.action_logits)
    layers = cola.config.text_config.num_hidden_layers + cola.config.num_policy_layers
    assert len(cache.layers) == layers, "base and policy share one cache"
    assert cache.get_seq_length() == T
    real = mask.bool()
    torch.testing.assert_close(torch.cat(logits, 1)[real], whole.logits[real], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        torch.cat(action_logits, 1)[real], whole.action_logits[real], atol=1e-4, rtol=0
    )


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


def test_the_last_positions_alone_take_their_own_codes_and_labels(cola, ids):
    codes = torch.arange(B * T).view(B, T) % A
    whole = cola(ids, actions=codes).logits
    last = cola(ids, actions=codes, labels=ids, logits_to_keep=3)
    torch.testing.assert_close(last.logits, whole[:, -3:])
    expected = functional.cross_entropy(whole[:, -3:-1].flatten(0, 1), ids[:, -2:].flatten())
    torch.testing.assert_close(last.loss, expected)
    with pytest.raises(ValueError, match="logits_to_keep=0, or at least 2"):
        cola(ids, labels=ids, logits_to_keep=1)


def test_the_last_positions_of_spans_take_their_own_phases(ids):
    model = tiny.make_spans()
    given = {"actions": torch.arange(B * T).view(B, T) % A, "phases": torch.arange(T).expand(B, T) % 3}
    torch.testing.assert_close(
        model(ids, logits_to_keep=2, **given).logits, model(ids, **given).logits[:, -2:]
    )


def test_world_loss_reaches_codebook_and_merge(cola, ids):
    model: Any = copy.deepcopy(cola)
    h = model.hidden(ids).detach()
    e = torch.full((B, T, A), 1 / A, requires_grad=True)
    functional.cross_entropy(model.world_from_vectors(h, e @ model.codebook.weight)[0], ids[0]).backward()
    assert model.codebook.weight.grad.abs().sum() > 0
    assert all(layer.gate_proj.weight.grad.abs().sum() > 0 for layer in model.merge)
    assert e.grad is not None
    assert e.grad.abs().sum() > 0


@pytest.mark.parametrize("detached", [True, False])
def test_the_subtracted_state_passes_a_gradient_back_only_if_told_to(ids, detached):
    """The difference readout's gradient by h, against one written out (spec 1.4)."""
    model = tiny.make_cola("difference", detach_state=detached)
    codes = torch.tensor([5, 0, 11])
    h = model.hidden(ids)[:, -1].detach().requires_grad_()
    model.world(h, codes).sum().backward()
    again = h.detach().clone().requires_grad_()
    z, e = again, model.codebook(codes)
    for layer in model.merge:
        z = z + layer(z, e)
    subtracted = again.detach() if detached else again
    model.lm_head(model.base.norm(z) - subtracted).sum().backward()
    torch.testing.assert_close(h.grad, again.grad)


@torch.no_grad()
def test_a_model_without_inverse_dynamics_does_all_else(tiny_cola, ids, tmp_path):
    model = tiny.make_cola(num_inverse_layers=0)
    assert not any(name.startswith("inverse") for name in model.state_dict())
    with pytest.raises(ValueError, match="no inverse dynamics"):
        model.infer(model.hidden(ids))
    out = model.generate(ids, max_new_tokens=3, eos_token_id=None)
    model.save_pretrained(tmp_path)
    again = CoLAForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.generate(ids, max_new_tokens=3, eos_token_id=None), out)


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
    with pytest.raises(ValueError, match="pickled weights"):
        CoLAForCausalLM.from_pretrained(tmp_path)


def test_from_base_keeps_the_base_and_accepts_a_path(tiny_base, ids, tmp_path):
    tiny_base.save_pretrained(tmp_path)
    sizes: dict[str, Any] = {"num_codes": 4, "num_inverse_layers": 1, "num_policy_layers": 1}
    for source in (tiny_base, str(tmp_path), Path(tmp_path)):
        model = CoLAForCausalLM.from_base(source, **sizes).eval()
        with torch.no_grad():
            logits = model.lm_head(model.hidden(ids))
            torch.testing.assert_close(logits, tiny_base(ids).logits, atol=1e-5, rtol=0)


def test_a_grown_model_predicts_exactly_what_its_base_does(tiny_base, ids):
    model: Any = CoLAForCausalLM.from_base(tiny_base, num_codes=4, num_policy_layers=1, readout="state")
    with torch.no_grad():
        h = model.eval().hidden(ids)
        for code in range(4):
            assert torch.equal(model.world(h, torch.full_like(ids, code)), model.lm_head(h))
    drawn: Any = CoLAForCausalLM.from_base(
        tiny_base, num_codes=4, num_policy_layers=1, readout="state", zero_start=False
    )
    assert all(layer.down_proj.weight.abs().max() > 0 for layer in drawn.merge)


def test_from_base_keeps_a_tied_head_tied_unless_told_otherwise(ids):
    base = tiny.make_base(tie_word_embeddings=True)
    sizes: dict[str, Any] = {"num_codes": 4, "num_inverse_layers": 1, "num_policy_layers": 1}
    for tied, told in ((True, sizes), (False, {**sizes, "tie_word_embeddings": False})):
        model: Any = CoLAForCausalLM.from_base(base, **told)
        assert (model.lm_head.weight is model.base.embed_tokens.weight) is tied
        with torch.no_grad():
            logits = model.eval().lm_head(model.hidden(ids))
            torch.testing.assert_close(logits, base(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"readout": "sum"}, "readout 'sum'"),
        ({"num_codes": 1}, "num_codes must be at least 2, got 1"),
        ({"num_merge_layers": 0}, "num_merge_layers must be at least 1"),
        ({"num_policy_layers": 0}, "num_policy_layers"),
        ({"num_inverse_layers": -1}, "num_inverse_layers must be at least 0, got -1"),
    ],
)
def test_config_refuses_what_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        CoLAConfig(**fields)


def test_the_subtracted_state_passes_a_gradient_only_when_asked(tiny_cola_difference, ids):
    """d(norm(z) - h)/dh without and with the last term; the values are the same."""
    model: Any = copy.deepcopy(tiny_cola_difference)
    h = model.hidden(ids).detach().requires_grad_()
    weights = torch.linspace(-1, 1, V)
    gradients, values = [], []
    for detached in (True, False):
        model.config.detach_state = detached
        values.append(model.world(h, torch.zeros_like(ids)))
        gradients += torch.autograd.grad((values[-1] * weights).sum(), h)
    assert torch.equal(*values)
    direct = (weights @ model.lm_head.weight).expand_as(h)
    torch.testing.assert_close(gradients[0] - gradients[1], direct, atol=1e-3, rtol=1e-3)


def test_config_round_trips(cola, tmp_path):
    cola.config.save_pretrained(tmp_path)
    loaded = CoLAConfig.from_pretrained(tmp_path)
    assert loaded.text_config.to_dict()["num_key_value_heads"] == 2
    assert (loaded.hidden_size, loaded.vocab_size) == (D, V)
    assert loaded.max_position_embeddings == tiny.CONTEXT
    assert loaded.eos_token_id == 0


def test_generate_returns_several_sequences_of_each_prompt(cola, ids):
    torch.manual_seed(0)
    drawn = cola.generate(ids, do_sample=True, num_return_sequences=3, max_new_tokens=4, pad_token_id=0)
    assert drawn.shape == (3 * B, T + 4)
    assert torch.equal(drawn[:, :T], ids.repeat_interleave(3, dim=0))
    greedy = cola.generate(ids, num_return_sequences=2, max_new_tokens=4, pad_token_id=0)
    assert torch.equal(greedy[0], greedy[1])


def test_what_is_grown_by_default_is_the_same_in_python_and_on_the_command_line(tiny_base: Any) -> None:
    config = CoLAForCausalLM.from_base(tiny_base).config
    assert {name: getattr(config, name) for name in GROWTH} == dict(GROWTH)
    assert PRESETS["tiny"].grow == GROWTH
    paper, official = PRESETS["paper"].grow, CoLAConfig()
    assert dict(paper) == {name: getattr(official, name) for name in GROWTH}


def test_generate_reads_the_options_of_a_configuration_too(tiny_cola):
    ids = torch.randint(tiny.VOCAB, (2, 4), generator=torch.Generator().manual_seed(0))
    copies = GenerationConfig(num_return_sequences=3, do_sample=True, max_new_tokens=4, eos_token_id=None)
    assert tiny_cola.generate(ids, generation_config=copies).shape == (6, 8)
    with pytest.raises(ValueError, match="num_beams must be 1"):
        tiny_cola.generate(ids, generation_config=GenerationConfig(num_beams=2, max_new_tokens=4))
    with pytest.raises(ValueError, match="give input ids"):
        tiny_cola.generate(num_return_sequences=2, max_new_tokens=4)


def test_generate_reads_the_models_own_configuration_last(tiny_cola):
    model = copy.deepcopy(tiny_cola)
    ids = torch.randint(tiny.VOCAB, (2, 4), generator=torch.Generator().manual_seed(0))
    plain = {"max_new_tokens": 8, "eos_token_id": None}
    greedy = model.generate(ids, **plain)

    def drawn(**options: Any) -> torch.Tensor:
        torch.manual_seed(0)
        return model.generate(ids, **options, **plain)

    expected = drawn(do_sample=True, temperature=2.0)
    assert not torch.equal(expected, greedy)
    model.generation_config.do_sample, model.generation_config.temperature = True, 2.0
    model.generation_config.top_k = 0  # none, as in transformers
    assert torch.equal(drawn(), expected)
    assert torch.equal(drawn(do_sample=False), greedy), "arguments come first"
    torch.manual_seed(0)
    config = GenerationConfig(temperature=1e-4, **plain)
    assert torch.equal(model.generate(ids, generation_config=config), greedy), "then the given configuration"
    model.generation_config.num_return_sequences = 3
    assert drawn(pad_token_id=0).shape == (6, 12)
    assert drawn(num_return_sequences=1).shape == (2, 12)
    model.generation_config = GenerationConfig(num_beams=3)
    with pytest.raises(ValueError, match="num_beams must be 1"):
        model.generate(ids, **plain)
    assert torch.equal(model.generate(ids, num_beams=1, **plain), greedy)


def test_a_vocabulary_of_another_size_is_refused_and_nothing_changes(tiny_cola):
    before = {name: tensor.clone() for name, tensor in tiny_cola.state_dict().items()}
    with pytest.raises(ValueError, match=r"of 288 tokens, and 300 were asked for: resize the base"):
        tiny_cola.resize_token_embeddings(300)
    assert tiny_cola.resize_token_embeddings() is tiny_cola.get_input_embeddings()
    after = tiny_cola.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
