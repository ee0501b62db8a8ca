"""Episodes of one prompt laid out behind a single copy of it, so that its tokens are computed once.

The episodes of a GRPO group answer the same problem. Of a group of 8 with a prompt of 200 tokens and answers
of 40, a decoder runs over 520 tokens in place of 1,920. An answer's tokens attend to the prompt and to their
own episode, at the positions that they have there, so states and gradients are those of separate episodes.

Shapes: N episodes, T positions; G groups, S slots of a group's row; D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: What sharing may cost at most, of what the separate episodes cost (:func:`_cost`).
WORTH = 0.5


@dataclass(frozen=True)
class SharedPrompts:
    """Where the tokens of N episodes stand in the rows of G groups.

    Attributes:
        group: of each episode, [N].
        slots: of each token in its group's row, [N, T]; of pads 0.
        episodes, positions: of the token in each slot, [G, S]; of pads 0.
        prompt: whether a slot holds a token of the prompt, which all of the group's episodes see, [G, S].
        pads: whether it holds none, [G, S].
    """

    group: Tensor
    slots: Tensor
    episodes: Tensor
    positions: Tensor
    prompt: Tensor
    pads: Tensor

    def lay(self, states: Tensor) -> Tensor:
        """States of the episodes [N, T, D] as rows of groups [G, S, D]."""
        return states[self.episodes, self.positions]

    def spread(self, states: Tensor) -> Tensor:
        """States in rows of groups [G, S, D] as those of the episodes [N, T, D]; of pads any state."""
        return states[self.group[:, None], self.slots]

    def mask(self) -> Tensor:
        """The slots that each slot attends to, [G, 1, S, S] bool."""
        earlier = self.positions[:, None, :] <= self.positions[:, :, None]
        owner = self.episodes.masked_fill(self.pads, -1)
        own = owner[:, None, :] == owner[:, :, None]
        return (earlier & (own | self.prompt[:, None, :]))[:, None]


def shared_prompts(ids: Tensor, lengths: Tensor, mask: Tensor, width: int) -> SharedPrompts | None:
    """The layout of episodes, or None where it would cost more than :data:`WORTH` of the separate episodes.

    So it is None for prompts that are short, and for answers that are many or long: with the layout's mask
    attention reads the other answers of the group, too, and all groups are padded to the longest.

    Args:
        ids: token ids [N, T], padded on the right.
        lengths: real tokens of each episode, [N].
        mask: [N, T] bool, True where an action follows. A prompt ends with the first of them.
        width: D of the decoder.
    """
    ends, rows = (mask.int().argmax(1) + 1).tolist(), ids.tolist()
    groups: dict[tuple[int, ...], list[int]] = {}
    for n, end in enumerate(ends):
        groups.setdefault(tuple(rows[n][:end]), []).append(n)
    counts = lengths.tolist()
    size = max(
        len(prompt) + sum(counts[n] - len(prompt) for n in members) for prompt, members in groups.items()
    )
    if _cost(len(groups), size, width) > WORTH * _cost(len(ids), ids.shape[1], width):
        return None
    group = torch.empty(len(rows), dtype=torch.long)
    slots = torch.zeros(ids.shape, dtype=torch.long)
    episodes, positions = torch.zeros(2, len(groups), size, dtype=torch.long)
    prompts, pads = torch.zeros(2, len(groups), size, dtype=torch.bool)
    for g, (prompt, members) in enumerate(groups.items()):
        end = at = len(prompt)
        group[members] = g
        slots[members, :end] = torch.arange(end)
        episodes[g] = members[0]
        positions[g, :end] = torch.arange(end)
        prompts[g, :end] = True
        for n in members:
            answer, own = torch.arange(end, counts[n]), slice(at, at + counts[n] - end)
            slots[n, end : counts[n]] = answer - end + at
            episodes[g, own], positions[g, own] = n, answer
            at = own.stop
        pads[g, at:] = True
    parts = group, slots, episodes, positions, prompts, pads
    return SharedPrompts(*(part.to(ids.device) for part in parts))


def _cost(rows: int, length: int, width: int) -> int:
    """The operations of a layer over rows [rows, length], over 4 D: of matrix products and of attention.

    The products take about 24 D^2 operations a token, attention 4 D for each key.
    """
    return rows * length * (6 * width + length)
