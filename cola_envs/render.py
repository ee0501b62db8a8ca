"""Text so far, with the action that produced each token."""

from __future__ import annotations

from cola_envs.episodes import Episodes
from cola_envs.page.pieces import pieces
from cola_envs.shown import shown


def transcript(episodes: Episodes, row: int) -> str:
    """The row's text, each piece of the agent's followed by its action: ``The⟨12⟩ answer⟨40⟩``.

    The prompt and the task's own text stand as they are, but for control characters, which are escaped. A
    token without text (the end-of-sequence token) is shown as ``∅``. Where a character's bytes are spread
    over several tokens their actions stand together behind it: ``é⟨7 31⟩``.
    """
    actions = episodes.actions(row)
    out = [shown(episodes.prompt(row))]
    for piece in pieces(episodes, row):
        text, codes = shown(piece.text), [actions[step] for step in piece.steps]
        out.append(f"{text or '∅'}⟨{' '.join(map(str, codes))}⟩" if codes else text)
    return "".join(out)
