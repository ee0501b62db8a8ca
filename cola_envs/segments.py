"""Detect the end of a segment without decoding it at every token, and read and write commands as segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cola_envs.backbone import Tokenizer
from cola_envs.checks import check_stop
from cola_envs.task import Exchange, Turn

REPLACEMENT = "\ufffd"  # the replacement character, which a decoder writes for an incomplete character


def command_of(text: str) -> str:
    """The command in a segment that a newline ends: its first line, without newlines in front of it.

    The token that ended the segment may hold newlines in front of the command, and further text behind it.
    One with nothing but newlines, at the beginning of a segment, is an empty command.
    """
    return text.lstrip("\n").partition("\n")[0]


def played(prompt: str, commands: Sequence[str], step: Callable[[str], Turn]) -> list[Exchange]:
    """The worked example of a game: each text of the game, and the command that answers it.

    Args:
        prompt: the game's first text.
        commands: those that win the game.
        step: plays a segment.

    Raises:
        ValueError: for commands of which not the last, and that alone, wins.
    """
    example = []
    for n, command in enumerate(commands, start=1):
        last = n == len(commands)
        segment = f" {command}" if last else f" {command}\n"
        turn = step(segment)
        if turn.truncated or turn.done is not last or (last and not turn.info.get("success")):
            said = turn.info.get("error") or turn.text.strip()
            raise ValueError(
                f"{len(commands)} commands do not win the game: {command!r}, number {n}, gave {said!r:.200}"
            )
        example.append((prompt, segment))
        prompt = turn.text
    return example


class StopStrings:
    """Finds stop strings in a growing segment of token ids.

    An id whose text does not contain the last character of a stop string cannot complete one. This is tested
    once for each id; the segment is decoded only for ids that can.

    Args:
        tokenizer: of the ids.
        stop: non-empty strings; TypeError for anything else.

    Attributes:
        plain: ids that are known not to end a segment.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.stop = check_stop("stop", stop)
        self.plain: set[int] = set()
        self._closing: set[int] = set()
        self._tokenizer = tokenizer
        self._plain_ids = np.empty(0, dtype=np.int64)  # ``plain`` as an array
        self._last = {text[-1] for text in self.stop}
        self._wide = any(ord(char) > 127 for char in self._last)

    def are_plain(self, tokens: np.ndarray) -> np.ndarray:
        """Whether each of an array of ids is in :attr:`plain`, an array of bool."""
        if len(self._plain_ids) != len(self.plain):  # it only grows
            self._plain_ids = np.fromiter(self.plain, dtype=np.int64)
        return np.isin(tokens, self._plain_ids)

    def ended(self, token: int, tokens: Sequence[int], start: int) -> str | None:
        """The text of ``tokens`` from index ``start`` on, if ``token``, the last, completes a stop string."""
        if token in self.plain:
            return None
        if token not in self._closing:
            # Some decoders drop the space in front of the first id, not of the second.
            text = self._tokenizer.decode([token]) + self._tokenizer.decode([token, token])
            # An id with a part of a character's bytes can only complete a non-ASCII character.
            if not (any(char in text for char in self._last) or (self._wide and REPLACEMENT in text)):
                self.plain.add(token)
                return None
            self._closing.add(token)
        text = self._tokenizer.decode(tokens[start:])
        return text if any(stop in text for stop in self.stop) else None
