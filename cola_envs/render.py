"""Text so far, with the action that produced each token."""

from __future__ import annotations

from cola_envs.episodes import Episodes
from cola_envs.segments import CUT
from cola_envs.shown import shown


def transcript(episodes: Episodes, row: int) -> str:
    """The row's text, each piece of the agent's followed by its action: ``The⟨12⟩ answer⟨40⟩``.

    The prompt and the task's own text stand as they are, but for control characters, which are escaped. A
    token without text (the end-of-sequence token) is shown as ``∅``. Where a character's bytes are spread
    over several tokens their actions stand together behind it: ``é⟨7 31⟩``.
    """
    decode = episodes.backbone.tokenizer.decode
    tokens, origins, actions = episodes.tokens(row), episodes.origins(row), episodes.actions(row)
    out = [shown(episodes.prompt(row))]
    before: list[int] = []  # the agent's piece before: a decoder may drop the space in front of a first id
    ids: list[int] = []
    codes: list[int] = []
    start = episodes.prompt_length(row)
    for position, (token, origin) in enumerate(zip(tokens[start:], origins[start:], strict=True), start):
        ids.append(token)
        after = origins[position + 1] if position + 1 < len(origins) else None
        if origin >= 0 and after != origin:
            codes.append(actions[origin])
        if after == origin:
            continue
        text = decode([*before, *ids]).removeprefix(decode(before)) if origin >= 0 else decode(ids)
        # A fifth token cannot belong to one character: the bytes are broken, and are shown as such.
        if origin >= 0 and after is not None and after >= 0 and text.endswith(CUT) and len(ids) < 5:
            continue
        text = shown(text)
        out.append(f"{text or '∅'}⟨{' '.join(map(str, codes))}⟩" if codes else text)
        before = ids if origin >= 0 and CUT not in text else []
        ids, codes = [], []
    return "".join(out)
