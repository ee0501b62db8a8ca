"""The similarity of texts: n-gram vectors and their pairwise cosine similarity.

Shapes: M texts, F features.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from cola_agents.train.bundled.english import story

#: Texts that are compared with one another to vectors [M, F].
Embed = Callable[[Sequence[str]], np.ndarray]


class NGramEmbedding:
    """TF-IDF of word 1- and 2-grams and, alike in weight, of 3- and 4-grams of letters within words.

    Features are the n-grams themselves, so that nothing collides: texts without a common n-gram have
    similarity 0. Capitals and punctuation do not count. A text without words is like another such text alone.

    Args:
        reference: texts that the inverse document frequencies are taken of; None for 2,000 generated stories.
    """

    name = "TF-IDF of word 1-2-grams and letter 3-4-grams"

    def __init__(self, reference: Sequence[str] | None = None) -> None:
        if reference is None:
            rng = random.Random("diversity reference")
            reference = [story(rng) for _ in range(2000)]
        if not reference:
            raise ValueError("the reference holds no text: frequencies need at least one")
        self._count = len(reference)
        self._documents = [
            Counter(gram for grams in blocks for gram in grams)
            for blocks in zip(*map(_grams, reference), strict=True)
        ]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts that are compared with one another, [M, F]."""
        blocks = zip(*map(_grams, texts), strict=True)
        return np.concatenate(
            [self._block(list(grams), known) for grams, known in zip(blocks, self._documents, strict=True)], 1
        ) / np.sqrt(len(self._documents))

    def _block(self, texts: list[Counter[str]], known: Counter[str]) -> np.ndarray:
        column = {
            gram: at for at, gram in enumerate(dict.fromkeys(gram for grams in texts for gram in grams))
        }
        out = np.zeros((len(texts), len(column)))
        for row, grams in enumerate(texts):
            for gram, times in grams.items():
                rarity = np.log((1 + self._count) / (1 + known[gram])) + 1
                out[row, column[gram]] = (1 + np.log(times)) * rarity
        return out / np.linalg.norm(out, axis=1, keepdims=True)


def _grams(text: str) -> tuple[Counter[str], Counter[str]]:
    """A text's n-grams of words and of letters; of a text without words the empty string."""
    words = re.findall(r"\w+", text.lower()) or [""]
    padded = [f" {word} " for word in words if word]
    letters = [word[at : at + n] for word in padded for n in (3, 4) for at in range(len(word) - n + 1)]
    return Counter(words + [" ".join(pair) for pair in pairwise(words)]), Counter(letters or [""])


def mean_similarity(vectors: np.ndarray) -> float:
    """The mean cosine similarity of each vector with each other one, [M, F], M at least 2.

    Raises:
        ValueError: for fewer than two vectors, or one that is zero or not finite.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if len(vectors) < 2 or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("similarity needs at least two vectors, and each of them finite and not zero")
    total = ((vectors / lengths).sum(0) ** 2).sum()
    return float((total - len(vectors)) / (len(vectors) * (len(vectors) - 1)))
