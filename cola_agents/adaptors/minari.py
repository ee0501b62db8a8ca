"""Minari: episodes that were played in batches as the buffers of an offline data set."""

from __future__ import annotations

from minari.data_collector import EpisodeBuffer

from cola_agents.rl.rollout import Rollout


def episode_buffers(rollout: Rollout, first_id: int = 0) -> list[EpisodeBuffer]:
    """A buffer an episode, for ``minari.create_dataset_from_buffers(name, buffers, env=...)``.

    They hold what ``minari.DataCollector`` records around a single environment with the default observations
    (``"hidden"``): n + 1 observations [D], n actions and rewards, which of these terminated or truncated, and
    the seed.

    Args:
        rollout: what ``Agent.play`` and ``collect`` return.
        first_id: of the first episode; the others count on from it (Minari wants ids from 0 on, with no gap).

    Raises:
        ValueError: episodes that several processes played, whose states are not all here.
    """
    if rollout.held is not None:
        raise ValueError(
            "several processes played these episodes, and each holds the states of its own alone"
        )
    buffers = []
    for row in range(len(rollout.lengths)):
        positions = rollout.mask[row].nonzero().flatten()
        states = (
            rollout.hidden[row, [*positions.tolist(), int(rollout.lengths[row]) - 1]].float().cpu().numpy()
        )
        last = len(positions) - 1
        ended = bool(rollout.terminated[row])
        buffers.append(
            EpisodeBuffer(
                id=first_id + row,
                seed=int(rollout.seeds[row]),
                observations=list(states),
                actions=rollout.actions[row, positions].cpu().numpy().tolist(),
                rewards=rollout.rewards[row, positions].cpu().numpy().tolist(),
                terminations=[ended and step == last for step in range(last + 1)],
                truncations=[not ended and step == last for step in range(last + 1)],
            )
        )
    return buffers
