"""Render an episode's text, with the action that produced each token, as text or as an image."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator

import numpy as np

from cola_envs.episodes import Episodes
from cola_envs.page.pieces import pieces
from cola_envs.segments import REPLACEMENT
from cola_envs.shown import shown

#: A frame's characters per line and lines, and the width and height of a character in pixels.
COLUMNS, LINES, ACROSS, DOWN = 80, 30, 8, 16
#: Of one width, which this size fits to ``ACROSS``; it comes with Matplotlib.
_FONT = "/fonts/ttf/DejaVuSansMono.ttf"
_PAPER, _INK = (250, 249, 245), (90, 90, 90)


def coded_pieces(episodes: Episodes, row: int) -> Iterator[tuple[str, list[int]]]:
    """Yield the row's text in pieces, each with the actions that wrote it (none for the task's text).

    Control characters are escaped. A token without text (the end-of-sequence token) is shown as ``∅``. Tokens
    that share the bytes of one character are one piece, with all their actions.
    """
    actions = episodes.actions(row)
    yield shown(episodes.prompt(row)), []
    for piece in pieces(episodes, row):
        codes = [actions[step] for step in piece.steps]
        text = shown(piece.text)
        yield (text or "∅" if codes else text), codes


def transcript(episodes: Episodes, row: int, *, settled: bool = False) -> str:
    """The row's text, with the action after each piece of the agent's text: ``The⟨12⟩ answer⟨40⟩``.

    Args:
        episodes, row: of the text.
        settled: leave out the beginning of a character whose other bytes the next actions may write, so that
            a later transcript of the episode begins with this one.
    """
    parts = list(coded_pieces(episodes, row))
    last, by = parts[-1]
    if settled and episodes.running(row) and by and last.endswith(REPLACEMENT):
        parts.pop()
    return "".join(f"{text}⟨{' '.join(map(str, codes))}⟩" if codes else text for text, codes in parts)


def frame(episodes: Episodes, row: int) -> np.ndarray:
    """The last lines of the row's text as an image, [480, 640, 3] uint8.

    The task's text is grey; the agent's text has a colour for each action.

    Raises:
        ImportError: without Pillow or Matplotlib.
    """
    return drawn(coded_pieces(episodes, row))


def drawn(coded: Iterable[tuple[str, list[int]]]) -> np.ndarray:
    """The last lines of pieces of text as :func:`frame` draws them; ``coded`` has each with its actions."""
    try:
        import matplotlib
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError(
            'render_mode="rgb_array" needs Pillow and Matplotlib: pip install matplotlib'
        ) from error
    lines: list[list[tuple[str, tuple[int, int, int]]]] = [[]]
    for text, codes in coded:
        colour = _colour(codes[0]) if codes else _INK
        for char in text.expandtabs(4):
            if char == "\n" or len(lines[-1]) == COLUMNS:
                lines.append([])
            if char != "\n":
                lines[-1].append((char, colour))
    image = Image.new("RGB", (COLUMNS * ACROSS, LINES * DOWN), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.truetype(f"{matplotlib.get_data_path()}{_FONT}", 13)
    for y, line in enumerate(lines[-LINES:]):
        for x, (char, colour) in enumerate(line):
            draw.text((x * ACROSS, y * DOWN), char, fill=colour, font=font)
    return np.array(image)


def _colour(action: int) -> tuple[int, int, int]:
    # Steps of the golden ratio give neighbouring actions hues that are far apart.
    red, green, blue = colorsys.hls_to_rgb(action * 0.618034 % 1.0, 0.38, 0.8)
    return int(255 * red), int(255 * green), int(255 * blue)
