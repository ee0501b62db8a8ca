"""The operations of a decoder layer, compiled by numba for one CPU thread.

The tokens of all rows are packed, each with its row and position, and each attends to its own row up to
itself. One call replaces about ten operations of torch, each of which takes longer to start than to compute
at this size. For a few tokens :func:`decoder_layer` computes the whole layer; for more, torch's matrix
products are faster, and only the operations between them are compiled.

The compiler may reorder sums; NaN and infinity propagate as usual. The loops start no threads, so that they
work in forked processes.

Shapes: n tokens, R rows, S positions of a row, D hidden, I inner size of an MLP; H heads of keys, each shared
by G heads of queries.
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
    heads = key_heads * group
    scores = np.empty((heads, positions.max() + 1), dtype=np.float32)
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
        for s in range(length):
            for query in range(heads):
                head, at = query // group, query * size
                score = np.float32(0.0)
                for j in range(size):
                    score += qkv[i, at + j] * keys[row, s, head, j]
                scores[query, s] = score * factor
        for query in range(heads):
            largest = np.float32(-np.inf)
            for s in range(length):
                largest = max(largest, scores[query, s])
            total = np.float32(0.0)
            for s in range(length):
                scores[query, s] = math.exp(scores[query, s] - largest)
                total += scores[query, s]
            for s in range(length):
                scores[query, s] /= total
        for j in range(width):
            out[i, j] = 0.0
        for s in range(length):
            for query in range(heads):
                head, at = query // group, query * size
                weight = scores[query, s]
                for j in range(size):
                    out[i, at + j] += weight * values[row, s, head, j]


@compiled
def add_product(to: Floats, x: Floats, weight: Floats) -> None:
    """Add the product of [n, K] and [K, N] to ``to``; K is a multiple of 8."""
    count, size = x.shape
    columns = weight.shape[1]
    fours = count - count % 4
    # Four rows at a time share what is read of the weight, four of its rows what is read of the sum.
    for i in range(0, fours, 4):
        for k in range(0, size, 4):
            a0, a1, a2, a3 = x[i, k], x[i, k + 1], x[i, k + 2], x[i, k + 3]
            b0, b1, b2, b3 = x[i + 1, k], x[i + 1, k + 1], x[i + 1, k + 2], x[i + 1, k + 3]
            c0, c1, c2, c3 = x[i + 2, k], x[i + 2, k + 1], x[i + 2, k + 2], x[i + 2, k + 3]
            d0, d1, d2, d3 = x[i + 3, k], x[i + 3, k + 1], x[i + 3, k + 2], x[i + 3, k + 3]
            for j in range(columns):
                w0, w1, w2, w3 = weight[k, j], weight[k + 1, j], weight[k + 2, j], weight[k + 3, j]
                to[i, j] += a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3
                to[i + 1, j] += b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3
                to[i + 2, j] += c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3
                to[i + 3, j] += d0 * w0 + d1 * w1 + d2 * w2 + d3 * w3
    for i in range(fours, count):
        for k in range(0, size, 8):
            a0, a1, a2, a3 = x[i, k], x[i, k + 1], x[i, k + 2], x[i, k + 3]
            a4, a5, a6, a7 = x[i, k + 4], x[i, k + 5], x[i, k + 6], x[i, k + 7]
            for j in range(columns):
                first = a0 * weight[k, j] + a1 * weight[k + 1, j]
                second = a2 * weight[k + 2, j] + a3 * weight[k + 3, j]
                third = a4 * weight[k + 4, j] + a5 * weight[k + 5, j]
                fourth = a6 * weight[k + 6, j] + a7 * weight[k + 7, j]
                to[i, j] += (first + second) + (third + fourth)


@compiled
def add_bias(to: Floats, bias: Floats) -> None:
    """Add a bias [N], or an empty one, to [n, N]."""
    for i in range(len(to)):
        for j in range(len(bias)):
            to[i, j] += bias[j]


@compiled
def linear(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """[n, K] times [K, N], plus a bias [N], or an empty one: [n, N]."""
    out = np.zeros((len(x), weight.shape[1]), dtype=np.float32)
    add_bias(out, bias)
    add_product(out, x, weight)
    return out


@compiled
def gated(gate_up: Floats) -> Floats:
    """SiLU of the first half of [n, 2 * I] times the second half: [n, I]."""
    count, size = len(gate_up), gate_up.shape[1] // 2
    out = np.empty((count, size), dtype=np.float32)
    for i in range(count):
        for j in range(size):
            gate = gate_up[i, j]
            out[i, j] = gate / (np.float32(1.0) + math.exp(-gate)) * gate_up[i, size + j]
    return out


@compiled
def decoder_layer(
    hidden: Floats,
    weights: tuple[Floats, ...],
    eps: float,
    angles: Floats,
    keys: Floats,
    values: Floats,
    rows: Ints,
    positions: Ints,
    scaling: float,
) -> None:
    """A whole decoder layer, in place.

    Args:
        hidden: the layer's input and output, [n, D].
        weights: the norm before attention; queries, keys and values side by side, and their bias; the norms
            of query and key heads; the output and its bias; the norm before the MLP; gate and up side by
            side, and their bias; down and its bias. Matrices are [input, output] with a multiple of 8 inputs;
            what the layer does not have is empty.

    The others are those of :func:`rms_norm` and :func:`attend`.
    """
    attention_norm, qkv, qkv_bias, query_norm, key_norm, o, o_bias = weights[:7]
    mlp_norm, gate_up, gate_up_bias, down, down_bias = weights[7:]
    width = len(o)
    normed = np.empty_like(hidden)
    rms_norm(hidden, attention_norm, eps, normed)
    projected = linear(normed, qkv, qkv_bias)
    if len(query_norm):
        norm_heads(projected, 0, width // len(query_norm), query_norm, eps)
        norm_heads(projected, width, keys.shape[2], key_norm, eps)
    attended = np.empty((len(hidden), width), dtype=np.float32)
    attend(projected, angles, keys, values, rows, positions, scaling, attended)
    add_product(hidden, attended, o)
    add_bias(hidden, o_bias)
    rms_norm(hidden, mlp_norm, eps, normed)
    add_product(hidden, gated(linear(normed, gate_up, gate_up_bias)), down)
    add_bias(hidden, down_bias)


@compiled
def merge_layer(z: Floats, terms: Floats, rows: Ints, state: Floats, down: Floats) -> None:
    """A merge layer of the world model, in place; see :mod:`~cola_agents.decoding.code_table`.

    Args:
        z: the layer's input and output, [n, D].
        terms: of every code, for gate and up side by side, [A, 2 * I].
        rows: of ``terms``, [n].
        state: gate and up of a state, side by side, [D, 2 * I]; D is a multiple of 8.
        down: [I, D]; I is a multiple of 8.
    """
    gate_up = terms[rows]
    add_product(gate_up, z, state)
    add_product(z, gated(gate_up), down)
