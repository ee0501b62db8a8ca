"""Backbones: what may be passed as model=, and what identifies one."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone, _bit_sums
from cola_agents.decoding.loading import load_bundled, make_backbone
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.text import PlainTokenizer
from cola_envs.backbone import Level
from cola_envs.build import resolve
from tests import tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_cola, tiny_base, tiny_tokenizer):
    """Folders "cola" and "base", each with its tokenizer."""
    root = tmp_path_factory.mktemp("models")
    for name, model in (("cola", tiny_cola), ("base", tiny_base)):
        copy.deepcopy(model).save_pretrained(root / name)
        tiny_tokenizer.save_pretrained(root / name)
    return root


def test_action_space_and_sizes_come_from_the_model(latent_backbone, token_backbone):
    assert latent_backbone.level == "latent"
    assert latent_backbone.action_space == gym.spaces.Discrete(tiny.CODES)
    assert latent_backbone.action_mask().all()
    assert token_backbone.level == "token"
    assert token_backbone.action_space == gym.spaces.Discrete(tiny.VOCAB)
    for backbone in (latent_backbone, token_backbone):
        assert backbone.hidden_size == 32
        assert backbone.max_length == tiny.CONTEXT
        assert f"actions={backbone.action_space.n}" in repr(backbone)


def test_make_backbone_accepts_a_model_a_path_and_a_string(saved, tiny_cola, tiny_base, tiny_tokenizer):
    ids = torch.tensor([[1, 2, 3]])
    kinds: list[tuple[Level, str, Any]] = [("latent", "cola", tiny_cola), ("token", "base", tiny_base)]
    for level, name, model in kinds:
        for source in (saved / name, str(saved / name)):
            backbone = make_backbone(source, level=level)
            assert backbone.level == level
            assert backbone.model.dtype == torch.float32
            with torch.no_grad():
                assert torch.equal(backbone.model(ids).logits, model(ids).logits)
            assert backbone.tokenizer.encode("Q: 8") == tiny_tokenizer.encode("Q: 8")
        given = make_backbone(model, level=level, tokenizer=tiny_tokenizer)
        assert given.model is model
        assert make_backbone(model, level=level, tokenizer=saved / name).fingerprint == given.fingerprint


def test_a_model_that_was_loaded_knows_its_own_tokenizer(saved):
    model = CoLAForCausalLM.from_pretrained(saved / "cola")
    assert len(make_backbone(model, level="latent").tokenizer) == tiny.TOKENIZER


def test_a_latent_model_can_act_at_token_level_through_its_base(tiny_cola, tiny_tokenizer):
    backbone = make_backbone(tiny_cola, level="token", tokenizer=tiny_tokenizer)
    assert isinstance(backbone, TokenBackbone)
    assert backbone.base is tiny_cola.base
    assert backbone.action_space.n == tiny.VOCAB


def test_dtype_applies_to_what_is_loaded_by_path(saved):
    assert make_backbone(saved / "cola", level="latent", dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": 7}, TypeError, "got int"),
        (
            {"model": "base-model", "level": "latent"},
            TypeError,
            "need a CoLAForCausalLM, got LlamaForCausalLM",
        ),
        ({"model": "empty"}, FileNotFoundError, "no config.json"),
        ({"model": "missing"}, FileNotFoundError, "missing"),
        ({"model": "no-tokenizer"}, ValueError, "pass tokenizer="),
        ({"model": "cola-model", "tokenizer": None}, ValueError, "name_or_path is empty.*pass tokenizer="),
        ({"model": "cola", "tokenizer": "missing"}, ValueError, "no tokenizer found"),
        ({"model": "cola", "dtype": "float12"}, ValueError, "float12"),
        ({"model": "cola", "dtype": "nn"}, ValueError, "'nn' is no floating type"),
    ],
)
def test_errors_say_what_came_and_what_to_do(
    saved, tiny_cola, tiny_base, tiny_tokenizer, tmp_path, arguments, error, message
):
    (saved / "empty").mkdir(exist_ok=True)
    copy.deepcopy(tiny_cola).save_pretrained(tmp_path / "no-tokenizer")
    objects = {
        "base-model": tiny_base,
        "cola-model": tiny_cola,
        "no-tokenizer": tmp_path / "no-tokenizer",
        "missing": saved / "missing",
        "empty": saved / "empty",
        "cola": saved / "cola",
    }
    model = objects.get(arguments["model"], arguments["model"])
    tokenizer = tiny_tokenizer if arguments["model"] == "base-model" else arguments.get("tokenizer")
    rest = {"level": "latent", **{k: v for k, v in arguments.items() if k not in ("model", "tokenizer")}}
    with pytest.raises(error, match=message):
        make_backbone(model, tokenizer=objects.get(tokenizer, tokenizer) if tokenizer else None, **rest)


def test_a_causal_lm_of_another_shape_is_refused(tiny_tokenizer):
    config = GPT2Config(
        vocab_size=tiny.VOCAB, n_embd=8, n_layer=1, n_head=1, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    with pytest.raises(TypeError, match=r"\.lm_head.*GPT2LMHeadModel"):
        TokenBackbone(GPT2LMHeadModel(config), tiny_tokenizer)


def test_a_tokenizer_that_is_too_large_is_refused(tiny_tokenizer):
    small = tiny.make_base(vocab_size=tiny.TOKENIZER - 1)
    with pytest.raises(ValueError, match=f"{tiny.TOKENIZER} entries and the model {tiny.TOKENIZER - 1}"):
        TokenBackbone(small, tiny_tokenizer)
    exact = tiny.make_base(vocab_size=tiny.TOKENIZER)
    assert TokenBackbone(exact, tiny_tokenizer).action_mask().all()


def test_a_backbone_passed_as_model_is_used_as_it_is(latent_backbone, tiny_tokenizer):
    assert resolve(latent_backbone, level="latent") is latent_backbone
    with pytest.raises(ValueError, match="backbone passed as model= at latent level"):
        resolve(latent_backbone, level="token")
    with pytest.raises(ValueError, match="tokenizer="):
        resolve(latent_backbone, level="latent", tokenizer=tiny_tokenizer)


def test_a_deep_copy_is_the_backbone_itself(latent_backbone, token_backbone):
    for backbone in (latent_backbone, token_backbone):
        assert copy.deepcopy(backbone) is backbone
        assert copy.deepcopy({"model": [backbone]})["model"][0] is backbone


def test_fingerprint_survives_saving_and_loading(saved, latent_backbone, token_backbone):
    assert make_backbone(saved / "cola", level="latent").fingerprint == latent_backbone.fingerprint
    assert make_backbone(saved / "base", level="token").fingerprint == token_backbone.fingerprint
    assert len(latent_backbone.fingerprint) == 64


def test_fingerprint_changes_with_a_weight_a_setting_the_level_and_the_tokenizer(
    latent_backbone, tiny_cola, tiny_tokenizer
):
    weight = copy.deepcopy(tiny_cola)
    with torch.no_grad():
        weight.codebook.weight[0, 0] += 1e-6
    setting = copy.deepcopy(tiny_cola)
    setting.config.text_config.rms_norm_eps = 1e-3
    readout = copy.deepcopy(tiny_cola)
    readout.config.readout = "difference"
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["zebra"])
    prints = [
        latent_backbone.fingerprint,
        LatentBackbone(weight, tiny_tokenizer).fingerprint,
        LatentBackbone(setting, tiny_tokenizer).fingerprint,
        LatentBackbone(readout, tiny_tokenizer).fingerprint,
        LatentBackbone(tiny_cola, tokenizer).fingerprint,
        TokenBackbone(tiny_cola, tiny_tokenizer).fingerprint,
    ]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.add_(1e-6),
        lambda weight: weight.data.mul_(1.5),
        lambda weight: weight.data.copy_(weight.data.flip(0)),
        lambda weight: torch.optim.AdamW([weight], lr=1e-3, fused=True).step(),
    ],
    ids=["in place", "through data", "rows in another order", "fused optimiser"],
)
def test_fingerprint_is_that_of_the_weights_as_they_are(tiny_cola, tiny_tokenizer, change):
    model = copy.deepcopy(tiny_cola)
    backbone = LatentBackbone(model, tiny_tokenizer)
    before, weight = backbone.fingerprint, model.codebook.weight
    kept = weight.detach().clone()
    assert backbone.fingerprint == before
    weight.grad = torch.ones_like(weight)
    with torch.no_grad():
        change(weight)
    after = backbone.fingerprint
    assert after == LatentBackbone(model, tiny_tokenizer).fingerprint != before
    model.config.readout = "difference"
    assert backbone.fingerprint != after
    model.config.readout = "state"
    with torch.no_grad():
        weight.copy_(kept)
    assert backbone.fingerprint == before


def test_sums_of_a_large_weights_bits_tell_what_was_changed_and_moved():
    weight = torch.randn(3, 50_000)
    sums = _bit_sums(weight)
    assert _bit_sums(weight.clone()) == sums
    assert _bit_sums(weight.roll(1, 0)) != sums
    weight[2, -1] += 1
    assert _bit_sums(weight) != sums
    assert _bit_sums(torch.arange(100_001.0)[1:]) == _bit_sums(torch.arange(1.0, 100_001))


def test_the_length_of_a_session_is_at_least_1_and_at_most_the_context(latent_backbone, token_backbone):
    for backbone in (latent_backbone, token_backbone):
        assert backbone.session(1).max_length == tiny.CONTEXT
        assert backbone.session(1, 1).max_length == 1
        for length in (0, -5):
            with pytest.raises(ValueError, match=f"max_length={length}"):
                backbone.session(1, length)
        with pytest.raises(ValueError, match="beyond the model's context"):
            backbone.session(1, tiny.CONTEXT + 1)


def test_plain_tokenizer_adds_nothing_and_hides_the_end(tiny_tokenizer):
    plain = PlainTokenizer(tiny_tokenizer)
    text = "<think> 3+4  =7 .</think>"
    ids = plain.encode(text)
    assert plain.decode(ids) == text
    assert plain.decode([*ids, tiny_tokenizer.eos_token_id]) == text
    assert plain.eos_token_id not in ids


def test_the_model_is_put_into_eval_mode(tiny_tokenizer):
    model = tiny.make_base().train()
    assert not TokenBackbone(model, tiny_tokenizer).model.training


def test_loading_leaves_the_progress_bar_setting_alone(saved):
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.is_progress_bar_enabled()
    make_backbone(saved / "cola", level="latent")
    assert transformers_logging.is_progress_bar_enabled() is before


def test_there_are_two_bundled_models():
    with pytest.raises(ValueError, match="'cola' and 'base'"):
        load_bundled("large")
