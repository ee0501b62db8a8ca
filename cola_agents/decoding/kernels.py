"""The operations of a decoder layer between its matrix products, compiled by numba for one CPU thread.

The tokens of all rows are packed, each with its row and position, and each attends to its own row up to
itself. One call replaces about ten operations of torch, each of which takes longer to start than to compute
at this size.

The compiler may reorder sums; NaN and infinity propagate as usual. The loops start no threads, so that they
work in forked processes.

Shapes: n tokens, R rows, S positions of a row, D hidden; H heads of keys, each shared by G heads of queries.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cola_agents.decoding.compiling import compiled

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@compiled
def rms_norm(x: Floats, weight: Floats, eps: float, out: Floats) -> None:
    """Root mean square norm of [n, D] into ``out``, which may be ``x``."""
    count, size = x.shape
    for i in range(count):
        total = np.float32(0.0)
        for j in range(size):
            total += x[i, j] * x[i, j]
        scale = np.float32(1.0 / math.sqrt(total / size + eps))
        for j in range(size):
            out[i, j] = weight[j] * (x[i, j] * scale)


@compiled
def norm_heads(qkv: Floats, first: int, heads: int, weight: Floats, eps: float) -> None:
    """:func:`rms_norm` of ``heads`` heads of [n, ...] from column ``first`` on, in place."""
    size = len(weight)
    for i in range(len(qkv)):
        for head in range(heads):
            at = first + head * size
            total = np.float32(0.0)
            for j in range(size):
                total += qkv[i, at + j] * qkv[i, at + j]
            scale = np.float32(1.0 / math.sqrt(total / size + eps))
            for j in range(size):
                qkv[i, at + j] = weight[j] * (qkv[i, at + j] * scale)


@compiled
def attend(
    qkv: Floats,
    angles: Floats,
    keys: Floats,
    values: Floats,
    rows: Ints,
    positions: Ints,
    scaling: float,
    out: Floats,
) -> None:
    """Rotate queries and keys, store keys and values, and attend from each token to its row up to itself.

    Tokens are processed in order, so that the tokens of a row's next text, which overwrite its keys and
    values, may follow those of its last text.

    Args:
        qkv: queries, keys and values of each token, [n, (G * H + 2 * H) * head_dim]; rotated in place.
        angles: cosines and sines, [positions, 2, 1, head_dim], the first half of the sines negated.
        keys, values: of all rows, [R, S, H, head_dim]; written at ``rows`` and ``positions`` [n].
        scaling: the factor of the scores.
        out: the result, [n, G * H * head_dim].
    """
    count, key_heads, size = len(qkv), keys.shape[2], keys.shape[3]
    width = out.shape[1]
    half, group = size // 2, width // (key_heads * size)
    scores = np.empty(positions.max() + 1, dtype=np.float32)
    gathered = np.empty(size, dtype=np.float32)
    factor = np.float32(scaling)
    for i in range(count):
        row, position, length = rows[i], positions[i], positions[i] + 1
        for at in range(0, width + key_heads * size, size):
            for j in range(half):
                left, right = qkv[i, at + j], qkv[i, at + half + j]
                qkv[i, at + j] = left * angles[position, 0, 0, j] + right * angles[position, 1, 0, j]
                qkv[i, at + half + j] = (
                    right * angles[position, 0, 0, half + j] + left * angles[position, 1, 0, half + j]
                )
        for head in range(key_heads):
            at = width + head * size
            for j in range(size):
                keys[row, position, head, j] = qkv[i, at + j]
                values[row, position, head, j] = qkv[i, at + key_heads * size + j]
        for query in range(key_heads * group):
            head, at = query // group, query * size
            largest = np.float32(-np.inf)
            for s in range(length):
                score = np.float32(0.0)
                for j in range(size):
                    score += qkv[i, at + j] * keys[row, s, head, j]
                score *= factor
                scores[s] = score
                largest = max(largest, score)
            total = np.float32(0.0)
            for s in range(length):
                scores[s] = math.exp(scores[s] - largest)
                total += scores[s]
            gathered[:] = 0.0
            for s in range(length):
                weight = scores[s]
                for j in range(size):
                    gathered[j] += weight * values[row, s, head, j]
            for j in range(size):
                out[i, at + j] = gathered[j] / total
