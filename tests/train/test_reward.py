"""Reward models: what they score, how they are trained, and how they refuse."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from cola_agents.cli import main
from cola_agents.decoding.loading import BUNDLED
from cola_agents.train import reward
from cola_agents.train.bundled.english import story
from cola_agents.train.reward import Pair, RewardConfig, RewardModel, read_pairs, train_reward
from tests import tiny


def shuffled(seed: int) -> Pair:
    """A story against the same words in another order."""
    rng = random.Random(seed)
    opening, _, rest = story(rng).partition(" ")
    words = rest.split()
    rng.shuffle(words)
    return Pair(opening, " " + rest, " " + " ".join(words))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("reward") / "model"
    pairs = [shuffled(seed) for seed in range(200)]
    config = RewardConfig(lr=1e-3, batch_size=16, held_out=0.2)
    return out, train_reward(BUNDLED / "base", pairs, out, config)


def test_training_on_pairs_tells_stories_from_shuffled_words(trained) -> None:
    out, report = trained
    assert report["held_out"] == 40
    assert report["accuracy"] >= 0.9
    scorer = RewardModel(out)
    pairs = [shuffled(seed) for seed in range(1000, 1020)]
    prompts = [pair.prompt for pair in pairs]
    chosen = scorer(prompts, [pair.chosen for pair in pairs])
    rejected = scorer(prompts, [pair.rejected for pair in pairs])
    assert sum(a > b for a, b in zip(chosen, rejected, strict=True)) >= 17
    assert scorer.mean == report["reward_mean"]
    assert scorer.std == report["reward_std"]


def test_pairs_of_one_batch_are_learned_from(tmp_path) -> None:
    """Their only step is the first and the last of the schedule."""
    before = tiny.make_base()
    before.save_pretrained(tmp_path / "base")
    tiny.make_tokenizer().save_pretrained(tmp_path / "base")
    train_reward(
        tmp_path / "base", [shuffled(seed) for seed in range(8)], tmp_path / "out", RewardConfig(lr=1e-2)
    )
    after = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    for name, parameter in before.named_parameters():
        if name.startswith("model.layers"):
            step = (after.get_parameter(name) - parameter).abs().max().item()
            assert step == pytest.approx(1e-2, rel=0.05), "the whole rate, which Adam's first step moves by"


def test_a_bfloat16_file_is_trained_in_small_steps_and_saved_in_its_type(tmp_path) -> None:
    """Most steps are smaller than the spacing of bfloat16 numbers; the float32 twins add them up."""
    drift, pairs = {}, [shuffled(seed) for seed in range(24)]
    for dtype in (torch.float32, torch.bfloat16):
        source = tmp_path / str(dtype)
        before = tiny.make_base().to(dtype)
        before.save_pretrained(source)
        tiny.make_tokenizer().save_pretrained(source)
        train_reward(
            source, pairs, source / "out", RewardConfig(lr=1e-4, batch_size=4, epochs=6, max_length=32)
        )
        after = AutoModelForSequenceClassification.from_pretrained(source / "out")
        assert after.dtype == dtype
        drift[dtype] = sum(
            (after.get_parameter(name).float() - parameter.float()).abs().sum().item()
            for name, parameter in before.named_parameters()
            if name.startswith("model.layers")
        )
    assert drift[torch.bfloat16] > 0.5 * drift[torch.float32]


def test_a_score_is_the_classifiers_own_output_whatever_the_batch(trained) -> None:
    out, _ = trained
    pairs = [shuffled(seed) for seed in range(7)]
    scores = RewardModel(out, batch_size=3)([p.prompt for p in pairs], [p.chosen for p in pairs])
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    for pair, score in zip(pairs, scores, strict=True):
        ids = [
            *tokenizer.encode(pair.prompt, add_special_tokens=False),
            *tokenizer.encode(pair.chosen, add_special_tokens=False),
            tokenizer.eos_token_id,
        ]
        with torch.no_grad():
            # One row, no padding: transformers then reads the last token.
            model.config.pad_token_id = None
            alone = model(torch.tensor([ids])).logits.item()
        assert score == pytest.approx(alone, abs=1e-4)


def test_train_reward_command_writes_model_and_report(tmp_path, capsys) -> None:
    lines = [json.dumps(vars(shuffled(seed))) + "\n" for seed in range(6)]
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    out = tmp_path / "out"
    argv = ["train-reward", "--pairs", str(tmp_path / "pairs.jsonl"), "--model", str(BUNDLED / "base")]
    assert main([*argv, "--out", str(out), "--batch-size", "2"]) == 0
    assert json.loads((out / "reward.json").read_text())["pairs"] == 6
    assert main([*argv, "--out", str(out)]) == 2
    assert "nothing was written" in capsys.readouterr().err


def test_a_broken_line_of_pairs_is_named_and_nothing_is_written(tmp_path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a"}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_pairs(path)
    with pytest.raises(ValueError, match="at least two"):
        train_reward(BUNDLED / "base", [Pair("a", "b", "c")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "^epochs must be at least 1, got 0$"),
        ("batch_size", 0, "^batch_size must be at least 1, got 0$"),
        ("max_length", -1, "^max_length must be at least 1, got -1$"),
        ("lr", math.nan, "^lr must be a finite number, 0 or above, got nan$"),
        ("lr", 0.0, "^lr must be above 0, got 0.0$"),
        ("seed", -1, "^seed must be at least 0, got -1$"),
        ("held_out", math.nan, "^held_out must be a share between 0 and 1, got nan$"),
    ],
)
def test_an_option_that_cannot_be_is_named_alone(field, value, message) -> None:
    with pytest.raises(ValueError, match=message):
        RewardConfig(**{field: value})


@pytest.fixture
def no_weights(monkeypatch):
    """No weights are loaded."""

    def load(*given: object, **named: object) -> None:
        pytest.fail("a model was loaded first")

    monkeypatch.setattr(reward, "load_model", load)


@pytest.mark.parametrize("official", [False, True])
def test_a_latent_action_model_is_refused_as_a_reward_model_in_one_line(
    official, no_weights, tmp_path, capsys
):
    model = tiny.make_cola()
    model.save_pretrained(tmp_path / "cola")
    tiny.make_tokenizer().save_pretrained(tmp_path / "cola")
    if official:
        fields = {**model.config.text_config.to_dict(), "num_code": 16, "v": 1}
        (tmp_path / "cola" / "config.json").write_text(json.dumps(fields))
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps(vars(shuffled(seed))) + "\n" for seed in range(2))
    )
    argv = ["--pairs", str(tmp_path / "pairs.jsonl"), "--model", str(tmp_path / "cola")]
    capsys.readouterr()
    assert main(["train-reward", *argv, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "holds a latent-action model, and a reward model is a causal LM or a sequence classifier" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="holds a latent-action model"):
        RewardModel(tmp_path / "cola")(["a"], ["b"])


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (tiny.CONTEXT + 1, rf"\(--max-length\) must be at most {tiny.CONTEXT}, the model's context, got 513"),
        (1, r"\(--max-length\) must be at least 2, a token of the response beside .*, got 1"),
    ],
)
def test_a_length_that_does_not_fit_is_refused_with_its_bound(length, message, no_weights, tmp_path):
    tiny.make_base().save_pretrained(tmp_path / "base")
    tiny.make_tokenizer().save_pretrained(tmp_path / "base")
    pairs = [shuffled(seed) for seed in range(2)]
    with pytest.raises(ValueError, match=message):
        train_reward(tmp_path / "base", pairs, tmp_path / "out", RewardConfig(max_length=length))
    assert not (tmp_path / "out").exists()


def test_a_classifier_that_is_no_decoder_is_refused(tmp_path):
    fields = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = BertForSequenceClassification(BertConfig(vocab_size=tiny.VOCAB, **fields, num_labels=1))
    encoder.save_pretrained(tmp_path / "bert")
    tiny.make_tokenizer().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="not a decoder with a head on its last token"):
        train_reward(tmp_path / "bert", [shuffled(seed) for seed in range(2)], tmp_path / "out")


def test_a_classifier_of_several_outputs_is_no_reward_model(tmp_path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(BUNDLED / "base", num_labels=3)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="3 outputs"):
        RewardModel(tmp_path)(["a"], ["b"])
