"""Stories in templated English, and a checker of their grammar.

The generator and the checker use the same words, so that the grammar of a model's text can be measured: the
agreement of verb and subject, of article and noun, and of a pronoun with the subject of the sentence before.
"""

from __future__ import annotations

import random
import re

ADJECTIVES = ("small", "big", "young", "red", "green", "happy", "quiet", "brave", "tired", "clever", "white")
# singular: (plural, pronoun of the singular)
ACTORS = {
    "cat": ("cats", "it"),
    "dog": ("dogs", "it"),
    "bird": ("birds", "it"),
    "fox": ("foxes", "it"),
    "horse": ("horses", "it"),
    "girl": ("girls", "she"),
    "boy": ("boys", "he"),
    "queen": ("queens", "she"),
    "king": ("kings", "he"),
}
THINGS = {
    "ball": "balls",
    "box": "boxes",
    "book": "books",
    "flower": "flowers",
    "stone": "stones",
    "cup": "cups",
    "lamp": "lamps",
    "boat": "boats",
    "tree": "trees",
}
# plural form: singular form
TRANSITIVE = {
    "see": "sees",
    "find": "finds",
    "like": "likes",
    "want": "wants",
    "take": "takes",
    "carry": "carries",
    "follow": "follows",
    "paint": "paints",
}
INTRANSITIVE = {"sleep": "sleeps", "sing": "sings", "run": "runs", "wait": "waits", "smile": "smiles"}
PLACES = ("in the garden", "near the river", "under the bridge", "at night", "by the sea", "in the snow")
SINGULAR_DETERMINERS = ("the", "a", "every")
PLURAL_DETERMINERS = ("the", "some", "two")

_PLURAL_ACTORS = {plural for plural, _ in ACTORS.values()}
_PLURAL_THINGS = set(THINGS.values())
_OPENING = "Story:"


def story(rng: random.Random, sentences: int | None = None) -> str:
    """A story of ``sentences`` sentences (None for 2 to 4), beginning with ``Story:``."""
    count = sentences or rng.randint(2, 4)
    parts = [_OPENING]
    pronoun = ""
    for index in range(count):
        if index and rng.random() < 0.5:
            subject, plural = pronoun, pronoun == "they"
        else:
            subject, plural, pronoun = _actor(rng)
        parts.append(_sentence(rng, subject, plural))
    return " ".join(parts)


def _actor(rng: random.Random) -> tuple[str, bool, str]:
    noun = rng.choice(tuple(ACTORS))
    plural_noun, pronoun = ACTORS[noun]
    if rng.random() < 0.35:
        return _phrase(rng, plural_noun, PLURAL_DETERMINERS), True, "they"
    return _phrase(rng, noun, SINGULAR_DETERMINERS), False, pronoun


def _phrase(rng: random.Random, noun: str, determiners: tuple[str, ...]) -> str:
    adjective = rng.choice(ADJECTIVES) + " " if rng.random() < 0.6 else ""
    return f"{rng.choice(determiners)} {adjective}{noun}"


def _object(rng: random.Random) -> str:
    if rng.random() < 0.5:
        noun = rng.choice(tuple(THINGS))
        plural_noun = THINGS[noun]
    else:
        noun = rng.choice(tuple(ACTORS))
        plural_noun = ACTORS[noun][0]
    if rng.random() < 0.35:
        return _phrase(rng, plural_noun, PLURAL_DETERMINERS)
    return _phrase(rng, noun, SINGULAR_DETERMINERS)


def _sentence(rng: random.Random, subject: str, plural: bool) -> str:
    if rng.random() < 0.35:
        verb = rng.choice(tuple(INTRANSITIVE))
        body = verb if plural else INTRANSITIVE[verb]
        place = " " + rng.choice(PLACES)
    else:
        verb = rng.choice(tuple(TRANSITIVE))
        body = f"{verb if plural else TRANSITIVE[verb]} {_object(rng)}"
        place = " " + rng.choice(PLACES) if rng.random() < 0.3 else ""
    return f"{subject[0].upper()}{subject[1:]} {body}{place}."


def check_story(text: str) -> list[bool]:
    """Check the grammar of every complete sentence of ``text``.

    Args:
        text: a story; a leading ``Story:`` is skipped, and so is a last sentence without a full stop, which
            a token budget may have truncated.

    Returns:
        A bool per complete sentence: True where :func:`story` could have written the sentence at that
        place. Empty where there is no complete sentence.
    """
    body = text.strip().removeprefix(_OPENING)
    *complete, _rest = body.split(".")
    verdicts = []
    pronoun = ""
    for index, sentence in enumerate(complete):
        valid, pronoun = _check_sentence(sentence, pronoun)
        verdicts.append(valid and (index == 0 or sentence.startswith(" ")))
    return verdicts


def _check_sentence(sentence: str, pronoun: str) -> tuple[bool, str]:
    """Whether a sentence is valid after a subject with this ``pronoun``, and the pronoun of its subject."""
    match = re.fullmatch(r" ?([A-Z][a-z]*)((?: [a-z]+)+)", sentence)
    if not match:
        return False, ""
    words = [match[1].lower(), *match[2].split()]
    if words[0] in ("it", "he", "she", "they"):
        if words[0] != pronoun:
            return False, ""
        plural, rest = words[0] == "they", words[1:]
    else:
        subject = _read_phrase(words, actors_only=True)
        if subject is None:
            return False, ""
        noun, plural, rest = subject
        pronoun = "they" if plural else ACTORS[noun][1]
    return _read_predicate(rest, plural), pronoun


def _read_phrase(words: list[str], actors_only: bool) -> tuple[str, bool, list[str]] | None:
    """(noun, whether plural, remaining words) of the noun phrase that ``words`` begin with, or None."""
    if not words or words[0] not in SINGULAR_DETERMINERS + PLURAL_DETERMINERS:
        return None
    determiner, rest = words[0], words[1:]
    if rest and rest[0] in ADJECTIVES:
        rest = rest[1:]
    if not rest:
        return None
    noun = rest[0]
    singular = noun in ACTORS or (not actors_only and noun in THINGS)
    plural = noun in _PLURAL_ACTORS or (not actors_only and noun in _PLURAL_THINGS)
    agrees = (singular and determiner in SINGULAR_DETERMINERS) or (
        plural and determiner in PLURAL_DETERMINERS
    )
    return (noun, plural, rest[1:]) if agrees else None


def _read_predicate(words: list[str], plural: bool) -> bool:
    if not words:
        return False
    verb, rest = words[0], words[1:]
    if verb in (INTRANSITIVE if plural else INTRANSITIVE.values()):
        return " ".join(rest) in PLACES
    if verb not in (TRANSITIVE if plural else TRANSITIVE.values()):
        return False
    phrase = _read_phrase(rest, actors_only=False)
    return phrase is not None and (not phrase[2] or " ".join(phrase[2]) in PLACES)
