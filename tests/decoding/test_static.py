"""Steps of fixed shapes give what a session gives."""

from __future__ import annotations

import copy
import functools
import math
import random
import weakref

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Qwen2Config, Qwen3Config

from cola_agents.decoding import static
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.session import NotFiniteError
from cola_agents.decoding.static import StaticDecoder
from cola_agents.model.sampling import sample
from tests import tiny

STEPS = 70  # beyond the first bucket of positions


def prompts(count: int = 5, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(1, tiny.TOKENIZER) for _ in range(rng.randint(1, 12))] for _ in range(count)]


def by_session(backbone, given, u: np.ndarray, temperature: float = 0.0, world_temperature: float = 0.0):
    """Tokens and actions [B, steps] of a session that is stepped one token at a time."""
    rows, session = list(range(len(given))), backbone.session(len(given))
    session.load(rows, given)
    tokens, actions = [], []
    for t in range(u.shape[1]):
        drawn, _ = sample(session.policy(rows), torch.from_numpy(u[:, t, 0]), temperature=temperature)
        decoded = session.decode(rows, drawn.numpy(), u[:, t, 1], world_temperature)
        session.extend(rows, [ids.tolist() for ids in decoded.tokens])
        tokens.append([int(ids[0]) for ids in decoded.tokens])
        actions.append(drawn.tolist())
    return np.array(tokens).T, np.array(actions).T


@functools.cache
def backbone_of(kind: str) -> LatentBackbone | TokenBackbone:
    tokenizer = tiny.make_tokenizer()
    if kind == "token":
        return TokenBackbone(tiny.make_base(), tokenizer)
    if kind in ("state", "difference"):
        return LatentBackbone(tiny.make_cola(kind), tokenizer)
    fields = tiny.make_base().config.to_dict()
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "initializer_range")
    config = {"qwen2": Qwen2Config, "qwen3": Qwen3Config}[kind](
        **{key: fields[key] for key in keys},
        num_hidden_layers=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=tiny.CONTEXT,
    )
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_config(config).eval()
    return LatentBackbone(tiny.make_cola("state", base=base), tokenizer)


@pytest.mark.parametrize("kind", ["state", "difference", "token", "qwen2", "qwen3"])
@pytest.mark.parametrize("temperatures", [(0.0, 0.0), (1.0, 0.0), (0.8, 0.7)])
def test_fixed_shapes_give_a_sessions_tokens_and_actions(kind, temperatures):
    backbone, given = backbone_of(kind), prompts()
    u = np.random.default_rng(1).random((len(given), STEPS, 2))
    decoder = StaticDecoder(
        backbone, 6, 200, temperature=temperatures[0], world_temperature=temperatures[1], graphs=False
    )
    decoder.load(given)
    tokens, actions = decoder.run(STEPS, torch.from_numpy(u))
    expected = by_session(backbone, given, u, *temperatures)
    np.testing.assert_array_equal(tokens, expected[0])
    np.testing.assert_array_equal(actions, expected[1])


def test_running_on_in_parts_equals_running_at_once(latent_backbone):
    decoder = StaticDecoder(latent_backbone, 3, 100)
    u = torch.rand(3, 30, 2, generator=torch.Generator().manual_seed(0))
    decoder.temperature = 1.0
    runs = []
    for parts in ([30], [7, 1, 22]):
        decoder.load(prompts(3))
        runs.append(torch.cat([decoder.run(part.shape[1], part)[0] for part in u.split(parts, 1)], 1))
    assert torch.equal(*runs)


def test_prompts_that_are_read_in_pieces_give_the_same(latent_backbone, monkeypatch):
    runs = []
    for tokens in (8192, 23, 1):
        monkeypatch.setattr(static, "_PROMPT_TOKENS", tokens)
        decoder = StaticDecoder(latent_backbone, 5, 100)
        decoder.load(prompts())
        runs.append(decoder.run(20)[0])
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_a_decoder_that_is_loaded_again_remembers_nothing(latent_backbone):
    decoder = StaticDecoder(latent_backbone, 8, 100)
    decoder.load(prompts(8, seed=3))
    decoder.run(40)
    decoder.load(prompts(2))
    again, _ = decoder.run(20)
    fresh = StaticDecoder(latent_backbone, 2, 100)
    fresh.load(prompts(2))
    assert torch.equal(again, fresh.run(20)[0])


def test_buffers_stay_where_they_are_and_shapes_come_in_buckets(latent_backbone, monkeypatch):
    decoder = StaticDecoder(latent_backbone, 6, 150)
    shapes = []
    step = decoder._step
    monkeypatch.setattr(decoder, "_step", lambda *shape: (shapes.append(shape), step(*shape)))
    places = [tensor.data_ptr() for pair in decoder._held.values() for tensor in pair]
    for count, bucket in ((3, 4), (5, 6), (1, 1)):
        shapes.clear()
        decoder.load([[5] * 10] * count)
        decoder.run(140)
        assert shapes == [(bucket, 64)] * 55 + [(bucket, 128)] * 64 + [(bucket, 150)] * 21
    assert places == [tensor.data_ptr() for pair in decoder._held.values() for tensor in pair]


def test_a_decoder_gives_its_memory_back_without_a_collection(latent_backbone):
    decoder = StaticDecoder(latent_backbone, 2, 60)
    held = weakref.ref(decoder)
    decoder.load(prompts(2))
    decoder.run(3)
    del decoder
    assert held() is None


def train(model) -> None:
    with torch.no_grad():
        model.codebook.weight.mul_(-3)
        model.policy_head.weight.neg_()


@pytest.mark.parametrize("change", [train, lambda model: model.double()], ids=["trained", "moved"])
def test_weights_that_were_trained_or_moved_are_seen_at_the_next_load(tiny_cola, tiny_tokenizer, change):
    model = copy.deepcopy(tiny_cola)
    # Without a world model there is no table that could notice in the decoder's place.
    backbone = (LatentBackbone if change is train else TokenBackbone)(model, tiny_tokenizer)
    decoder = StaticDecoder(backbone, 2, 60)
    decoder.load(prompts(2))
    before, _ = decoder.run(20)
    change(model)
    decoder.load(prompts(2))
    after, _ = decoder.run(20)
    np.testing.assert_array_equal(after, by_session(backbone, prompts(2), np.zeros((2, 20, 2)))[0])
    assert (change is train) is not torch.equal(before, after)


def test_numbers_that_are_not_finite_name_row_and_position(tiny_cola, tiny_tokenizer):
    model = copy.deepcopy(tiny_cola)
    with torch.no_grad():
        model.base.embed_tokens.weight[33].fill_(math.nan)
    decoder = StaticDecoder(LatentBackbone(model, tiny_tokenizer), 3, 60)
    decoder.load([[1, 2], [4, 5, 33], [6]])
    with pytest.raises(NotFiniteError, match=r"row 1 .*position 2, after token 33") as caught:
        decoder.run(5)
    assert caught.value.row == 1
    with pytest.raises(RuntimeError, match="load"):
        decoder.run(1)
    decoder.load([[1, 2], [4, 5, 6], [6]])
    decoder.run(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.load([]), "0 prompts"),
        (lambda d: d.load([[1]] * 4), r"4 prompts.*1 to 3 prompts"),
        (lambda d: d.load([[1], []]), r"lengths \[0, 1\]"),
        (lambda d: d.load([[1] * 20]), r"lengths \[20\].*1 to 19 tokens"),
        (lambda d: d.run(0), "at least 1 step"),
        (lambda d: d.run(18), r"18 steps.*up to 21 tokens.*20 tokens fit"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(latent_backbone, call, message):
    decoder = StaticDecoder(latent_backbone, 3, 20)
    decoder.load([[1, 2, 3], [4]])
    with pytest.raises(ValueError, match=message):
        call(decoder)
    tokens, _ = decoder.run(17)
    np.testing.assert_array_equal(
        tokens, by_session(latent_backbone, [[1, 2, 3], [4]], np.zeros((2, 17, 2)))[0]
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_rows": 0}, "num_rows=0"),
        ({"max_length": 1}, "max_length=1"),
        ({"max_length": 513}, "context of 512"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"graphs": True}, "need a model on a GPU; this one is on cpu"),
    ],
)
def test_settings_out_of_range_are_refused(latent_backbone, fields, message):
    with pytest.raises(ValueError, match=message):
        StaticDecoder(latent_backbone, **{"num_rows": 2, **fields})


def test_drawing_without_uniforms_and_other_families_are_refused(latent_backbone, tiny_tokenizer):
    decoder = StaticDecoder(latent_backbone, 2, 30, temperature=1.0)
    decoder.load([[1], [2]])
    for u in (None, torch.zeros(2, 3, 2)):
        with pytest.raises(ValueError, match=r"uniforms of shape \[2, 4, 2\]"):
            decoder.run(4, u)
    config = Gemma2Config(
        vocab_size=tiny.VOCAB,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    gemma = TokenBackbone(AutoModelForCausalLM.from_config(config), tiny_tokenizer)
    with pytest.raises(ValueError, match=r"this Gemma2Model is none"):
        StaticDecoder(gemma, 1, 30)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("temperatures", [(0.0, 0.0), (1.0, 0.7)])
def test_replayed_graphs_give_the_eager_steps_tokens(temperatures):
    backbone = LatentBackbone(tiny.make_cola("state").to("cuda"), tiny.make_tokenizer())
    u = torch.rand(5, STEPS, 2, generator=torch.Generator().manual_seed(0))
    runs = []
    for graphs in (False, True):
        decoder = StaticDecoder(
            backbone, 6, 200, temperature=temperatures[0], world_temperature=temperatures[1], graphs=graphs
        )
        for _ in range(2):
            decoder.load(prompts())
            runs.append(decoder.run(STEPS, u)[0])
    assert all(torch.equal(run, runs[0]) for run in runs)
