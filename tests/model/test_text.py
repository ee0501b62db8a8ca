"""Text and ids: what a task sees of what a model wrote, where texts end, and what contexts begin with."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.loading import make_backbone
from cola_agents.evaluation.play import play
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.text import PlainTokenizer
from cola_agents.rl.generate import generate, read
from cola_agents.train.data.documents import Document
from cola_agents.train.data.packing import PackedBatches
from cola_agents.train.reward import RewardModel, encode
from cola_envs import Turn
from tests import tiny
from tests.spelling import END, START, TAGS, TURN_END, base_for, byte_tokenizer

ANSWER = "<think>a</think><answer>3</answer>"


class Hears:
    """Keeps what it was told; two segments, each ended by a chat marker or the end of text."""

    stop: tuple[str, ...] = ("<|user|>",)
    heard: list[str]

    def reset(self, rng: np.random.Generator) -> str:
        type(self).heard = []
        return "Say:"

    def step(self, text: str) -> Turn:
        self.heard.append(text)
        return Turn(text=" And?", reward=1.0, done=len(self.heard) == 2)


def token_env(tokenizer: Any, task: Any = Hears, **kwargs: Any) -> Any:
    kwargs = {"max_tokens": 64, "model": base_for(tokenizer), **kwargs}
    return gym.make("CoLA-Text-Token-v0", task=task, tokenizer=tokenizer, **kwargs).unwrapped


def write(env: Any, ids: list[int]) -> tuple[float, bool, dict[str, Any]]:
    """Take ids as actions until the episode ends; reward, terminated and info of the last step."""
    for token in ids:
        _, reward, terminated, truncated, info = env.step(token)
        if terminated or truncated:
            break
    return reward, terminated, info


# ---------------------------------------------------------------- special tokens in a text


@pytest.mark.parametrize("kind", ["extra", "special"])
def test_tags_reach_the_task_whether_they_are_special_tokens_or_not(kind):
    tokenizer = byte_tokenizer(**{kind: TAGS})
    env: Any = gym.make(
        "CoLA-Thinking-Token-v0", model=base_for(tokenizer), tokenizer=tokenizer, max_tokens=64
    )
    env.reset(seed=0)
    reward, _, info = write(env, [*tokenizer.encode(ANSWER), tokenizer.eos_token_id])
    assert reward == 1.0
    assert info["text"] == ANSWER


def test_a_stop_string_that_is_a_special_token_ends_the_segment_and_belongs_to_it():
    tokenizer = byte_tokenizer(special=["<|user|>", "<pad>"])
    env = token_env(tokenizer)
    env.reset(seed=0)
    pieces = [*tokenizer.encode("a<pad>b<|user|>"), *tokenizer.encode(f"c{START}d"), tokenizer.eos_token_id]
    _, terminated, info = write(env, pieces)
    assert terminated
    assert Hears.heard == ["a<pad>b<|user|>", f"c{START}d"]
    assert info["text"] == f"a<pad>b<|user|>c{START}d"


def test_a_tag_beyond_ascii_is_spelt_as_it_was_added():
    plain = PlainTokenizer(byte_tokenizer(special=["<réponse>"], extra=["<思考>", "<|a b|>"]))
    text = "x<réponse>é<réponse><思考> <|a b|>y"
    assert plain.decode(plain.encode(text)) == text


def sentencepiece_like() -> Any:
    pieces = ["<unk>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "▁a", "<", ">"]
    raw = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [("▁", "a")], byte_fallback=True, unk_token="<unk>")
    )
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="</s>", unk_token="<unk>", additional_special_tokens=["<t>"]
    )


def word_pieces() -> Any:
    """One whose own decoding, unlike a task's text, takes the spaces before signs away."""
    raw = Tokenizer(
        models.WordPiece({"[UNK]": 0, "a": 1, ".": 2, "##b": 3, "'": 4, "s": 5}, unk_token="[UNK]")
    )
    raw.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="[UNK]", eos_token="[END]", clean_up_tokenization_spaces=True
    )


def test_a_sentencepiece_like_decoder_shows_special_tokens_and_joins_bytes():
    plain = PlainTokenizer(sentencepiece_like())
    assert plain.decode([*plain.encode("a a é日"), *plain.encode("<t>"), 1]) == "a a é日<t>"


@pytest.mark.parametrize(
    "make",
    [
        lambda: byte_tokenizer(special=TAGS),
        lambda: byte_tokenizer(extra=["<a b>"], holes=2),
        sentencepiece_like,
        word_pieces,
    ],
    ids=["bytes", "bytes and holes", "sentencepiece", "word pieces"],
)
def test_ids_are_spelt_as_transformers_decodes_them(make):
    source = make()
    plain = PlainTokenizer(source)
    ids, rng = sorted(plain.ids), np.random.default_rng(0)
    texts = [[], *([token] for token in ids), *(rng.choice(ids, size).tolist() for size in [2, 3, 9] * 200)]
    assert {*plain.special_ids, plain.eos_token_id} < plain.ids
    for text in texts:  # also of special tokens, and of a part of a character's bytes
        assert plain.spell(text) == source.decode(
            text, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )


@pytest.mark.parametrize("method", ["decode", "_decode"])
def test_a_tokenizer_with_a_decoder_of_its_own_is_asked(method):
    def shouted(self: Any, *args: Any, **kwargs: Any) -> str:
        return getattr(PreTrainedTokenizerFast, method)(self, *args, **kwargs).upper()

    source = word_pieces()
    source.__class__ = type("Shouting", (PreTrainedTokenizerFast,), {method: shouted})
    a, stop = source.convert_tokens_to_ids(["a", "."])
    assert PlainTokenizer(source).spell([a, stop]) == "A ."


def test_recordings_see_what_the_task_sees(tmp_path):
    tokenizer = byte_tokenizer(special=TAGS)
    answer = [*tokenizer.encode(ANSWER), tokenizer.eos_token_id]

    def dictate(session: Any, rows: list[int]) -> torch.Tensor:
        model = session.base
        logits = torch.full((len(rows), model.config.vocab_size), -torch.inf)
        logits[range(len(rows)), [answer[len(session.tokens[row]) - prompt[0]] for row in rows]] = 0.0
        return logits

    task, settings = "CoLA-Thinking-Token-v0", {"model": base_for(tokenizer), "tokenizer": tokenizer}
    env: Any = gym.make(task, **settings).unwrapped
    env.reset(seed=0)
    prompt = [env.episodes.prompt_length(0)]
    told = generate(task, tmp_path / "e.jsonl", problems=1, n=2, policy=dictate, env_kwargs=settings)
    assert told["reward"] == 1.0
    assert [episode["info"]["text"] for episode in read(tmp_path / "e.jsonl").episodes] == [ANSWER] * 2


def test_a_transcript_shows_special_tokens_but_not_the_beginning():
    tokenizer = byte_tokenizer(special=["<|user|>"], template=f"{START} $A")
    env = token_env(tokenizer, render_mode="ansi")
    env.reset(seed=0)
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    env.step(user)
    assert env.render().startswith(f"Say:<|user|>⟨{user}⟩ And?")


def test_what_is_typed_in_special_tokens_is_what_the_task_sees():
    tokenizer = byte_tokenizer(special=TAGS, template=f"{START} $A")
    lines, said = iter([ANSWER, ":quit"]), []
    rewards = play(
        "CoLA-Thinking-Token-v0",
        ask=lambda _: next(lines),
        say=said.append,
        env_kwargs={"model": base_for(tokenizer), "tokenizer": tokenizer},
    )
    assert rewards == [1.0]
    assert any(ANSWER in text for text in said)
    assert not any(START in text or END in text for text in said)


# ---------------------------------------------------------------- several ends


def model_with_ends(tokenizer: Any, where: str, ends: Any) -> LlamaForCausalLM:
    model = base_for(tokenizer)
    getattr(model, where).eos_token_id = ends
    return model


@pytest.mark.parametrize("where", ["config", "generation_config"])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("kind", ["special", "extra"])
def test_every_end_of_text_id_of_tokenizer_and_model_ends_a_text(where, several, kind):
    tokenizer = byte_tokenizer(**{kind: [TURN_END]})
    turn_end = tokenizer.convert_tokens_to_ids(TURN_END)
    model = model_with_ends(tokenizer, where, [turn_end, 7] if several else turn_end)
    for end in (tokenizer.eos_token_id, turn_end, *([7] if several else [])):
        env = token_env(tokenizer, model=model)
        env.reset(seed=0)
        write(env, [65, 66, end, 67, end])
        assert Hears.heard == [tokenizer.decode([65, 66]), tokenizer.decode([67])]


def test_a_latent_model_ends_where_the_base_that_it_grew_from_does():
    tokenizer = byte_tokenizer(special=[TURN_END])
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(TURN_END)]
    base = model_with_ends(tokenizer, "generation_config", ends)
    model = tiny.make_cola(base=base)
    assert model.generation_config.eos_token_id == ends
    backbone = LatentBackbone(model, tokenizer)
    assert backbone.tokenizer.end_ids == set(ends)
    assert backbone.tokenizer.eos_token_id == tokenizer.eos_token_id
    assert TokenBackbone(model, tokenizer).tokenizer.end_ids == set(ends)


def test_a_saved_latent_model_keeps_its_ends(tmp_path):
    tokenizer = byte_tokenizer(special=[TURN_END])
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(TURN_END)]
    tiny.make_cola(base=model_with_ends(tokenizer, "generation_config", ends)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert make_backbone(tmp_path, level="latent").tokenizer.end_ids == set(ends)
    assert CoLAForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id == ends


def test_an_end_that_is_only_the_class_default_of_a_configuration_ends_nothing():
    tokenizer = byte_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    )
    assert model.generation_config.eos_token_id == 2  # a character of this tokenizer
    assert TokenBackbone(model, tokenizer).tokenizer.end_ids == {tokenizer.eos_token_id}


def test_a_tokenizer_without_an_end_takes_the_models():
    tokenizer = byte_tokenizer(special=[TURN_END])
    tokenizer.eos_token = None
    turn_end = tokenizer.convert_tokens_to_ids(TURN_END)
    plain = PlainTokenizer(tokenizer, model_with_ends(tokenizer, "generation_config", [turn_end, 5]))
    assert plain.eos_token_id == turn_end
    assert plain.end_ids == {turn_end, 5}


def test_further_ends_and_a_beginning_are_part_of_the_fingerprint():
    tokenizer = byte_tokenizer(special=[TURN_END])
    turn_end = tokenizer.convert_tokens_to_ids(TURN_END)
    several = model_with_ends(tokenizer, "generation_config", [turn_end])
    begins = byte_tokenizer(special=[TURN_END], template=f"{START} $A")
    plain = base_for(tokenizer)
    prints = {
        TokenBackbone(model, kind).fingerprint
        for model, kind in ((plain, tokenizer), (several, tokenizer), (plain, begins))
    }
    assert len(prints) == 3


# ---------------------------------------------------------------- the beginning


@pytest.mark.parametrize("template", [f"{START} $A", f"{START} $A {END}"])
def test_a_context_begins_as_the_template_says_and_later_turns_do_not(template):
    tokenizer = byte_tokenizer(template=template)
    bare = byte_tokenizer()
    env = token_env(tokenizer)
    _, info = env.reset(seed=0)
    start = [tokenizer.bos_token_id, *bare.encode("Say:")]
    assert env.episodes.tokens(0) == start
    assert info["prompt"] == "Say:"
    env.step(65)
    env.step(tokenizer.eos_token_id)
    assert env.episodes.tokens(0) == [*start, 65, tokenizer.eos_token_id, *bare.encode(" And?")]
    state = env.snapshot()
    env.reset(seed=1)
    env.restore(state)
    assert env.episodes.reset_infos([0])[0]["prompt"] == "Say:"


def test_a_prompt_that_spells_the_beginning_gets_it_once():
    class Templated(Hears):
        def reset(self, rng: np.random.Generator) -> str:
            return f"{START}{super().reset(rng)}"

    tokenizer = byte_tokenizer(template=f"{START} $A")
    env = token_env(tokenizer, task=Templated)
    _, info = env.reset(seed=0)
    assert env.episodes.tokens(0).count(tokenizer.bos_token_id) == 1
    assert info["prompt"] == f"{START}Say:"


@pytest.mark.parametrize("learn_prompts", [True, False])
def test_documents_begin_as_the_template_says(learn_prompts):
    tokenizer = byte_tokenizer(template=f"{START} $A")
    bare = byte_tokenizer()
    documents = [Document("Q", "AB"), Document("", f"{START}C"), Document("", "")]
    batch = next(
        PackedBatches(documents, PlainTokenizer(tokenizer), rows=1, length=12, learn_prompts=learn_prompts)
    )
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    first = [start, *bare.encode("QAB"), end]
    second = [start, *bare.encode("C"), end]
    assert batch.ids[0, :8].tolist() == [*first, *second]
    assert batch.segments[0].tolist() == [0] * 5 + [1] * 3 + [-1] * 4
    learned = batch.targets[0, :4].tolist()
    assert learned == (first[1:] if learn_prompts else [-100, *first[2:]])


def test_a_place_in_documents_without_a_beginning_is_none_in_documents_with_one():
    class Endless:
        name = "endless"

        def __iter__(self):
            return self

        def __next__(self):
            return Document("", "a")

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    plain, begins = (
        PackedBatches(Endless(), PlainTokenizer(byte_tokenizer(template=t)), rows=1, length=8)
        for t in ("$A", f"{START} $A")
    )
    state = json.loads(json.dumps(plain.state_dict()))
    del state["settings"]["start_of_text"]  # as it was written before there was such a setting
    plain.load_state_dict(state)
    with pytest.raises(ValueError, match="start_of_text"):
        begins.load_state_dict(state)


def test_a_reward_model_reads_texts_behind_their_beginning(tmp_path):
    tokenizer = byte_tokenizer(template=f"{START} $A {END}")
    plain, bare = PlainTokenizer(tokenizer), byte_tokenizer()
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert encode(plain, "ab", "cd", 99) == [start, *bare.encode("abcd"), end]
    assert encode(plain, "ab", "cd", 3) == [start, *bare.encode("d"), end]
    assert encode(PlainTokenizer(bare), "ab", "cd", 3) == [*bare.encode("cd"), end]
    config = base_for(tokenizer).config
    config.num_labels = 1
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model(torch.tensor([encode(plain, "ab", "cd", 99)])).logits.item()
    assert RewardModel(tmp_path)(["ab"], ["cd"]) == [pytest.approx(wanted, abs=1e-6)]


def test_a_template_that_changes_the_text_is_refused():
    class Doubling:
        eos_token_id = None

        def get_vocab(self):
            return {"a": 0}

        def encode(self, text, add_special_tokens=True):
            return [0, 0] if not add_special_tokens else [0, 1, 0]

    with pytest.raises(ValueError, match=r"template makes \[0, 1, 0\]"):
        PlainTokenizer(Doubling())


def test_truncation_that_was_asked_of_the_tokenizer_elsewhere_cuts_no_prompt():
    tokenizer = byte_tokenizer()
    plain = PlainTokenizer(tokenizer)
    whole = plain.encode("abcdef")
    tokenizer("abcdef", truncation=True, max_length=2)
    assert plain.encode("abcdef") == whole
