"""What the models are trained on: no test question, right answers, checkable English, honest tokens."""

from __future__ import annotations

import random
import re
from itertools import islice
from typing import Any

import pytest
from transformers import AutoTokenizer

from cola_agents.backbones import PlainTokenizer
from cola_agents.train.corpus import CorpusConfig, Document, answer_in_style, documents
from cola_agents.train.english import check_story, story
from cola_agents.train.tokenizer import EOS, TAGS, train_tokenizer
from cola_envs.grading.extract import extract_boxed
from cola_envs.tasks import substitute
from cola_envs.tasks.arithmetic import LEVELS, final_answer, generate, split_of
from cola_envs.tasks.thinking import FORMAT, INSTRUCTION

STYLES = ("direct", "preface", "steps", "words", "think")


@pytest.fixture(scope="module")
def corpus() -> list[Document]:
    """As many documents of every kind and level as the splits are checked on."""
    config = CorpusConfig(levels=(0.2,) * 5, word_levels=substitute.LEVELS)
    return [*islice(documents(0, config), 10_000), *islice(documents(1), 10_000)]


def key_of(question: str) -> str:
    """The canonical question, read back from how it is written."""
    if question.endswith(", x=?"):
        return re.sub(r"^(\d+)\+x", r"x+\1", question.removesuffix(", x=?"))
    terms = re.findall(r"[+-]?[\d*]+", question.removesuffix("=?"))
    factors = [sorted(int(n) for n in term.lstrip("+-").split("*")) for term in terms]
    if len(factors[0]) == 1:
        return "sum " + " ".join(map(str, sorted(int(term) for term in terms)))
    if len(factors[-1]) == 1:
        return f"product {factors[0]} {int(terms[-1])}"
    pairs = [tuple(pair) for pair in factors]
    adds = terms[1][0] == "+"
    return f"products {sorted(pairs) if adds else pairs} {adds}"


def test_key_of_reads_every_question():
    for level in LEVELS:
        for seed in range(500):
            problem = generate(seed, level=level)
            assert key_of(problem.question) == problem.key


def test_no_document_holds_a_test_question(corpus):
    arithmetic = words = 0
    forbidden = {substitute.canonical_question(item["problem"]) for item in substitute.test_items()}
    assert len(forbidden) >= 70
    for document in corpus:
        question = re.search(r"Q: (.*)\nA:$", document.prompt)
        if question:
            arithmetic += 1
            assert split_of(key_of(question[1])) == "train", document
        elif document.prompt.startswith("User: "):
            words += 1
            asked = document.prompt.removeprefix("User: ").removesuffix("\nAssistant: ").partition("\n\n")[2]
            assert substitute.canonical_question(asked) not in forbidden, document
        else:
            assert document.prompt == "Story:"
    assert arithmetic > 10_000
    assert words > 1500


def test_the_same_seed_gives_the_same_documents(corpus):
    assert list(islice(documents(1), 300)) == corpus[10_000:10_300]
    assert list(islice(documents(2), 50)) != corpus[10_000:10_050]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("level", LEVELS)
def test_every_style_gives_the_right_answer(style, level):
    for seed in range(200):
        problem = generate(seed, level=level)
        text = answer_in_style(problem, style)
        assert final_answer(text) == problem.answer, text
        assert (FORMAT.fullmatch(text) is not None) == (style == "think"), text
        if style in ("steps", "think"):
            worked = re.findall(r"(-?\d+(?:[-+*/]-?\d+)+)=(-?\d+)", text)
            assert len(worked) == len(problem.steps), text
        if style == "words":
            assert text.count(" to get ") == len(problem.steps), text
            for told, (expression, value) in zip(re.split(r"\. ", text), problem.steps, strict=False):
                numbers = re.findall(r"-?\d+", told)
                assert numbers[-1] == str(value), text
                # "take 5 from 12" and "add -3 to 4" hold the step's own numbers.
                assert sorted(n.lstrip("-") for n in numbers[:-1]) == sorted(re.findall(r"\d+", expression))


def test_words_of_a_step_say_what_the_step_does():
    """Worked out by hand, the sign of a negative number included."""
    problem = generate(0)._replace(
        answer=-2,
        steps=(("12-5", 7), ("7+-3", 4), ("4*2", 8), ("-6/3", -2)),
    )
    assert answer_in_style(problem, "words").startswith(
        " First take 5 from 12 to get 7. Then add -3 to 7 to get 4. Then multiply 4 by 2 to get 8."
        " Then divide -6 by 3 to get -2. The answer is"
    )


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="style 'poem'"):
        answer_in_style(generate(0), "poem")


def test_shares_are_those_of_the_configuration(corpus):
    drawn = corpus[10_000:]
    asked = [d for d in drawn if d.prompt.endswith("\nA:")]
    assert len(asked) / 10_000 == pytest.approx(0.55, abs=0.02)
    assert sum(d.prompt == "Story:" for d in drawn) / 10_000 == pytest.approx(0.33, abs=0.02)
    told = [d for d in asked if d.prompt.startswith(INSTRUCTION)]
    assert len(told) / len(asked) == pytest.approx(0.5, abs=0.03)
    thinking = [d for d in asked if d.continuation.startswith("<think>")]
    assert 0 < len(thinking) / len(asked) < 0.05, "the format reward must have something to teach"


def test_word_problems_end_in_a_box(corpus):
    for document in corpus:
        if document.prompt.startswith("User: "):
            assert extract_boxed(document.continuation), document


# ------------------------------------------------------------------ English


def test_every_story_passes_the_checker(corpus):
    rng = random.Random(0)
    for sentences in (None, 1, 2, 7, 20):
        for _ in range(300):
            verdicts = check_story(story(rng, sentences))
            assert all(verdicts)
            assert len(verdicts) == sentences if sentences else 2 <= len(verdicts) <= 4
    told = [d for d in corpus if d.prompt == "Story:"]
    assert all(all(check_story(document.continuation)) for document in told[:500])
    assert all(document.text.startswith("Story: ") for document in told[:500])


@pytest.mark.parametrize(
    "text",
    [
        "Story: The cat see a ball.",  # verb and singular subject
        "Story: Two dogs sleeps at night.",  # verb and plural subject
        "Story: A cats sing at night.",  # article and noun
        "Story: Some girl sings at night.",
        "Story: The cat likes two stone.",  # ... of the object
        "Story: The girl sleeps at night. He sings by the sea.",  # pronoun and its subject
        "Story: The girls sleep at night. She sings by the sea.",
        "Story: It sleeps at night.",  # pronoun without a subject
        "Story: the cat sleeps at night.",  # no capital
        "Story: The cat sleeps.",  # no place
        "Story: The cat sees.",  # no object
        "Story: The ball sleeps at night.",  # a thing that acts
        "Story: The red small cat sleeps at night.",  # two adjectives
        "Story: The cat sleeps at night at night.",
        "Story: The zebra sleeps at night.",
        "Story: Cat the sleeps at night.",
        "Story: The  cat sleeps at night.",
        "Story: The cat sleeps at night..",
        "Story: The cat sleeps, at night.",
        "Story: The cat sleeps at night.The dog sings at night.",
        "Story: The cat sleeps at night. <think>.",
    ],
)
def test_a_corrupted_story_fails(text):
    assert not all(check_story(text))


def test_a_last_sentence_that_was_cut_is_passed_over():
    assert check_story("Story: The cat sleeps at night. It se") == [True]
    assert check_story(" The cat sleeps at night. It sees a ball.") == [True, True]
    assert check_story("Story: The ca") == []
    assert check_story("") == []


def test_corrupting_any_word_is_mostly_noticed():
    """Swapping two different words of a story; not every swap makes it wrong."""
    rng, noticed = random.Random(1), 0
    for _ in range(300):
        words = story(rng, 2).split(" ")
        i, j = rng.sample(range(1, len(words)), 2)
        words[i], words[j] = words[j], words[i]
        noticed += not all(check_story(" ".join(words)))
    assert noticed > 230


# ------------------------------------------------------------------ tokenizer


@pytest.fixture(scope="module")
def tokenizer(corpus) -> Any:
    return train_tokenizer((document.text for document in corpus[:1500]), 1024)


def test_the_vocabulary_is_bounded(tokenizer):
    assert 600 < len(tokenizer) <= 1024
    assert tokenizer.convert_tokens_to_ids(EOS) == tokenizer.eos_token_id


def test_every_digit_is_its_own_token(tokenizer):
    plain = PlainTokenizer(tokenizer)
    for text in ("1234567890", "12+345=357", " 99", "a1b22"):
        pieces = [plain.decode([i]) for i in plain.encode(text)]
        assert "".join(pieces) == text
        assert [p for p in pieces if any(c.isdigit() for c in p)] == [c for c in text if c.isdigit()]


def test_every_tag_is_one_token_wherever_it_stands(tokenizer):
    plain = PlainTokenizer(tokenizer)
    for tag in TAGS:
        (only,) = plain.encode(tag)
        for before, after in (("x", "x"), (" ", " "), ("3", "4"), ("\n", "."), (tag, tag)):
            ids = plain.encode(before + tag + after)
            assert only in ids
            assert plain.decode(ids) == before + tag + after


def test_any_text_comes_back(tokenizer, tiny_tokenizer):
    rng = random.Random(0)
    for source in (tokenizer, tiny_tokenizer):
        plain = PlainTokenizer(source)
        texts = ["", " ", "  two  spaces ", "tab\tand\r\nline\n\n", "naïve – 数学 🙂", "e\u0301", "\x00\x7f"]
        texts += [bytes(rng.randrange(256) for _ in range(40)).decode("latin-1") for _ in range(50)]
        texts += ["".join(chr(rng.randrange(0x20, 0xD000)) for _ in range(20)) for _ in range(50)]
        for text in texts:
            ids = plain.encode(text)
            assert plain.decode(ids) == text
            assert plain.eos_token_id not in ids
            assert plain.decode([*ids, source.eos_token_id]) == text


def test_a_saved_tokenizer_encodes_the_same(tokenizer, corpus, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = PlainTokenizer(AutoTokenizer.from_pretrained(tmp_path))
    plain = PlainTokenizer(tokenizer)
    for document in corpus[:300]:
        ids = plain.encode(document.text)
        assert loaded.encode(document.text) == ids
        assert loaded.decode(ids) == document.text
