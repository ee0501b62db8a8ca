"""Where a segment ends, without decoding every token."""

from __future__ import annotations

from collections.abc import Sequence

from cola_envs.backbone import Tokenizer

CUT = "\ufffd"  # what a decoder writes for a character whose bytes are not all there


class StopStrings:
    """Finds stop strings in a growing segment of token ids.

    An id whose text cannot hold the last character of any stop string cannot complete one. Whether it
    can is looked up once per id; only then is the segment decoded.

    Attributes:
        plain: ids that are known to end no segment.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
            raise TypeError(f"stop must be a tuple of non-empty strings, got {stop!r}")
        self.stop = tuple(stop)
        self.plain: set[int] = set()
        self._closing: set[int] = set()
        self._decode = tokenizer.decode
        self._last = {text[-1] for text in self.stop}
        self._wide = any(ord(char) > 127 for char in self._last)

    def ends(self, token: int, tokens: Sequence[int], start: int) -> bool:
        """Whether ``token``, the last of ``tokens``, completes a stop string since index ``start``."""
        if token in self.plain:
            return False
        if token not in self._closing:
            # Some decoders drop the space in front of the first id: the second one shows it.
            text = self._decode([token]) + self._decode([token, token])
            # Some bytes of a character can complete a stop string only if that ends in a wide one.
            if not (any(char in text for char in self._last) or (self._wide and CUT in text)):
                self.plain.add(token)
                return False
            self._closing.add(token)
        text = self._decode(tokens[start:])
        return any(stop in text for stop in self.stop)
