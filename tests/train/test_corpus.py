"""What the models are trained on: no test question, right answers, checkable English, honest tokens."""

from __future__ import annotations

import random
import re
from itertools import islice
from typing import Any

import pytest
from transformers import AutoTokenizer

from cola_agents.model.text import PlainTokenizer
from cola_agents.train.bundled.corpus import (
    Document,
    answer_in_style,
    countdown_document,
    documents,
    rooms_document,
)
from cola_agents.train.bundled.english import check_story, story
from cola_agents.train.bundled.settings import CorpusConfig
from cola_agents.train.bundled.tokenizer import EOS, TAGS, train_tokenizer
from cola_envs.grading.extract import extract_boxed
from cola_envs.tasks import countdown, substitute, textrooms
from cola_envs.tasks.arithmetic import LEVELS, final_answer, final_text, generate, split_of
from cola_envs.tasks.thinking import FORMAT, INSTRUCTION

STYLES = ("direct", "preface", "steps", "words", "think")


@pytest.fixture(scope="module")
def corpus() -> list[Document]:
    """As many documents of every kind and level as the splits are checked on."""
    config = CorpusConfig(
        levels=(0.2,) * 5,
        word_levels=substitute.LEVELS,
        countdown_difficulties=(0.2,) * 5,
        rooms_difficulties=(0.6, 0.35, 0.05),
    )
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


def puzzle_of(question: str) -> tuple[tuple[int, ...], int]:
    """Numbers and target of a Countdown question, read back from how it is written."""
    match = re.fullmatch(r"Make (\d+) from (.*) with \+ - \* /", question)
    assert match
    return tuple(map(int, match[2].split(", "))), int(match[1])


def opening_of(document: Document) -> str:
    """What a player of a TextRooms game sees first."""
    assert document.prompt.endswith("\n>")
    return document.prompt.removesuffix("\n>")


def test_key_of_reads_every_question():
    for level in LEVELS:
        for seed in range(500):
            problem = generate(seed, level=level)
            assert key_of(problem.question) == problem.key


def test_no_document_holds_a_test_question(corpus):
    arithmetic = words = puzzles = games = 0
    forbidden = {substitute.canonical_question(item["problem"]) for item in substitute.test_items()}
    assert len(forbidden) >= 70
    for document in corpus:
        question = re.search(r"Q: (.*)\nA:$", document.prompt)
        if question and question[1].startswith("Make "):
            puzzles += 1
            assert split_of(countdown.key_of(*puzzle_of(question[1]))) == "train", document
        elif document.prompt.startswith("Goal: "):
            games += 1
            assert split_of(f"rooms {opening_of(document)}") == "train", document
        elif question:
            arithmetic += 1
            assert split_of(key_of(question[1])) == "train", document
        elif document.prompt.startswith("User: "):
            words += 1
            question = (
                document.prompt.removeprefix("User: ").removesuffix("\nAssistant: ").partition("\n\n")[2]
            )
            assert substitute.canonical_question(question) not in forbidden, document
        else:
            assert document.prompt == "Story:"
    assert arithmetic > 9_000
    assert words > 1200
    assert puzzles > 500
    assert games > 1000


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
            for sentence, (expression, value) in zip(re.split(r"\. ", text), problem.steps, strict=False):
                numbers = re.findall(r"-?\d+", sentence)
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
    config = CorpusConfig()
    problems = [d for d in drawn if d.prompt.endswith("\nA:")]
    puzzles = sum("Q: Make " in d.prompt for d in problems)
    assert puzzles / 10_000 == pytest.approx(config.countdown, abs=0.008)
    assert (len(problems) - puzzles) / 10_000 == pytest.approx(config.arithmetic, abs=0.02)
    assert sum(d.prompt == "Story:" for d in drawn) / 10_000 == pytest.approx(config.english, abs=0.02)
    games = sum(d.prompt.startswith("Goal: ") for d in drawn)
    assert games / 10_000 == pytest.approx(config.rooms, abs=0.01)
    instructed = [d for d in problems if d.prompt.startswith(INSTRUCTION)]
    assert len(instructed) / len(problems) == pytest.approx(0.5, abs=0.03)
    thinking = [d for d in problems if d.continuation.startswith("<think>")]
    assert 0 < len(thinking) / len(problems) < 0.05, "the format reward must have something to teach"


def test_word_problems_end_in_a_box(corpus):
    for document in corpus:
        if document.prompt.startswith("User: "):
            assert extract_boxed(document.continuation), document


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("difficulty", countdown.SHAPES)
def test_every_style_gives_a_right_countdown_answer(style, difficulty):
    for seed in range(100):
        puzzle = countdown.generate(seed, difficulty=difficulty)
        text = answer_in_style(puzzle, style)
        assert countdown.score(final_text(text), puzzle.numbers, puzzle.target).correct, text
        assert (FORMAT.fullmatch(text) is not None) == (style == "think"), text


def test_countdown_documents_are_answered_right_and_rarely_by_thinking():
    rng, config = random.Random(3), CorpusConfig()
    drawn = [countdown_document(rng, config) for _ in range(2000)]
    for document in drawn:
        question = document.prompt.removesuffix("\nA:").rpartition("Q: ")[2]
        assert countdown.score(final_text(document.continuation), *puzzle_of(question)).correct, document
    assert sum(d.prompt.startswith(INSTRUCTION) for d in drawn) / 2000 == pytest.approx(0.5, abs=0.05)
    assert 0 < sum(d.continuation.startswith("<think>") for d in drawn) / 2000 < 0.06


def test_a_transcript_is_what_the_game_answers_to_its_commands():
    config = CorpusConfig(rooms_difficulties=(0.0, 1.0, 0.0))
    for seed in range(60):
        document = rooms_document(random.Random(seed), config)
        # The document's own draws: the difficulty, then the game.
        rng = random.Random(seed)
        rng.random()
        game = textrooms.generate(rng.getrandbits(60), difficulty=2, split="train")
        task = textrooms.TextRooms(2)
        text = task.begin(game)
        assert text == document.prompt
        for command in re.findall(r">(.*\n)", document.text):
            turn = task.step(command)
            text += command + turn.text
        assert turn.done
        assert text == document.text


def test_games_say_every_command_and_are_not_always_won():
    rng, config = random.Random(3), CorpusConfig()
    games = [rooms_document(rng, config) for _ in range(1200)]
    won = [d.continuation.endswith(textrooms.WON) for d in games]
    assert 0.4 < sum(won) / len(won) < 0.8
    assert all(d.continuation.endswith(textrooms.OVER) for d, w in zip(games, won, strict=True) if not w)
    commands = {command for d in games for command in re.findall(r"> (.*)\n", d.text)}
    items, containers = (*textrooms.ITEMS, textrooms.KEY), textrooms.CONTAINERS
    assert commands == {
        "look",
        *(f"go {direction}" for direction in textrooms.DIRECTIONS),
        *(f"take {item}" for item in items),
        *(f"open {container}" for container in containers),
        *(f"put {item} in {container}" for item in items for container in containers),
    }
    skilled = [rooms_document(rng, CorpusConfig(rooms_skilled=1.0, rooms_slips=0.0)) for _ in range(50)]
    assert all(d.continuation.endswith(textrooms.WON) for d in skilled)


# ------------------------------------------------------------------ English


def test_every_story_passes_the_checker(corpus):
    rng = random.Random(0)
    for sentences in (None, 1, 2, 7, 20):
        for _ in range(300):
            verdicts = check_story(story(rng, sentences))
            assert all(verdicts)
            assert len(verdicts) == sentences if sentences else 2 <= len(verdicts) <= 4
    stories = [d for d in corpus if d.prompt == "Story:"]
    assert all(all(check_story(document.continuation)) for document in stories[:500])
    assert all(document.text.startswith("Story: ") for document in stories[:500])


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


def test_a_transcript_has_the_tokens_of_its_turns(tokenizer):
    """In training it is one text; in an episode every command and every answer is encoded by itself."""
    plain, rng = PlainTokenizer(tokenizer), random.Random(5)
    longest = 0
    for _ in range(200):
        document = rooms_document(rng, CorpusConfig())
        ids = plain.encode(document.prompt) + plain.encode(document.continuation)
        first, *turns = re.split(r"(?<=\n>)", document.text)
        pieces = [first, *(piece for turn in turns[:-1] for piece in turn.partition("\n"))]
        pieces += turns[-1].partition("\n")
        apart = []
        for at, piece in enumerate(pieces):
            # A command is sent with its newline: the piece that holds the newline goes with it.
            if at % 3 == 1:
                apart += plain.encode(piece + "\n")
            elif at % 3 == 0:
                apart += plain.encode(piece)
        assert apart == ids, document
        longest = max(longest, len(ids))
    assert longest <= 160, "a game must fit the positions that are trained"


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
