"""The bytes and operations of a decode step, and this machine's rates of both.

Time cannot fall below the bytes over the bandwidth, nor below the operations over their rate; how near a
measured step comes to the larger of the two is how much there is left to gain.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Cost:
    """One decode step of B rows, a token each.

    Attributes:
        weight_bytes: matrices read, once for all rows.
        kv_bytes: keys and values read, of all rows.
        table_bytes: rows of the code table read.
        flops: multiplications and additions of the matrices and of attention, of all rows.
    """

    weight_bytes: int
    kv_bytes: int
    table_bytes: int
    flops: int

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.table_bytes


def decode_cost(
    config: Any, *, rows: int, context: int, element_size: int, latent: bool, table: bool = True
) -> Cost:
    """What a step reads and computes, from the shapes alone.

    A layer has ``2 D Q + 2 D K + 3 D I`` weights (Q and K the widths of all heads of queries and of
    keys), the head ``D V``. Latent decoding adds the policy's layers and head ``D A``, and merge layers of
    ``3 D I`` weights, or ``5 D I`` where the code's half is not looked up. A weight takes two operations
    a row. Attention reads ``2 K`` numbers a position and layer, and takes ``4 Q`` operations. Norms,
    biases, embedding rows and activations are left out: at 8B they are below a thousandth.

    Args:
        config: a :class:`~cola_agents.model.configuration.CoLAConfig`.
        rows: B.
        context: positions that attention reads in a row.
        element_size: bytes of a number.
        latent: with policy and world model, or the language model alone.
        table: whether the codes' half of the merge layers is looked up.
    """
    text = config.text_config
    size, inner = text.hidden_size, text.intermediate_size
    head_dim = getattr(text, "head_dim", None) or size // text.num_attention_heads
    queries, keys = text.num_attention_heads * head_dim, text.num_key_value_heads * head_dim
    layer = 2 * size * queries + 2 * size * keys + 3 * size * inner
    layers = text.num_hidden_layers
    weights = layers * layer + size * text.vocab_size
    looked_up = 0
    if latent:
        layers += config.num_policy_layers
        weights += config.num_policy_layers * layer + size * config.num_codes
        weights += config.num_merge_layers * (3 if table else 5) * size * inner
        looked_up = rows * config.num_merge_layers * 2 * inner if table else 0
    return Cost(
        weight_bytes=weights * element_size,
        kv_bytes=rows * context * layers * 2 * keys * element_size,
        table_bytes=looked_up * element_size,
        flops=rows * (2 * weights + context * layers * 4 * queries),
    )


@dataclass(frozen=True)
class Machine:
    """This machine's measured rates, in bytes and operations per second."""

    copy_bandwidth: float
    matmul_rate: float

    def least_seconds(self, cost: Cost) -> float:
        """The lower bound on the seconds of a step."""
        return max(cost.bytes / self.copy_bandwidth, cost.flops / self.matmul_rate)

    def described(self, cost: Cost, seconds: float) -> dict[str, Any]:
        """A step's cost beside its measured time, JSON-ready."""
        moving, computing = cost.bytes / self.copy_bandwidth, cost.flops / self.matmul_rate
        return {
            "mib": round(cost.bytes / 2**20, 3),
            "gflop": round(cost.flops / 1e9, 4),
            "ms": round(seconds * 1e3, 4),
            "least_ms": round(self.least_seconds(cost) * 1e3, 4),
            "bound_by": "bandwidth" if moving >= computing else "arithmetic",
            "of_limit": round(self.least_seconds(cost) / seconds, 4),
            "of_copy_bandwidth": round(moving / seconds, 4),
        }


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(run: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Wall seconds of some repetitions, after one that is not counted."""
    times = []
    for turn in range(repeats + 1):
        synchronise(device)
        started = time.perf_counter()
        run()
        synchronise(device)
        if turn:
            times.append(time.perf_counter() - started)
    return times


def median_seconds(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The median wall seconds of some repetitions."""
    return statistics.median(seconds_of(run, device, repeats))


def measure_machine(
    device: torch.device, dtype: torch.dtype, *, copy_bytes: int, matmul_size: int, repeats: int = 5
) -> Machine:
    """Copy bandwidth (bytes read and bytes written both count) and rate of a square product.

    Args:
        device, dtype: of what is copied and multiplied.
        copy_bytes: size of what is copied. What fits into a cache is copied from there: take the size of
            what a step reads.
        matmul_size: n of the n x n matrices.
        repeats: the fastest of them counts.
    """
    # The fastest repetition: what the machine can do, not what it did while something else ran.
    copying = min(_copy_seconds(device, dtype, copy_bytes, repeats))
    left = torch.randn(matmul_size, matmul_size, device=device, dtype=dtype)
    multiplying = min(seconds_of(lambda: left @ left, device, repeats))
    return Machine(2 * copy_bytes / copying, 2 * matmul_size**3 / multiplying)


def _copy_seconds(device: torch.device, dtype: torch.dtype, num_bytes: int, repeats: int) -> list[float]:
    source = torch.zeros(num_bytes // dtype.itemsize, dtype=dtype, device=device)
    target = torch.empty_like(source)
    times = max(1, 2**24 // num_bytes)  # a clock is too coarse for one small copy

    def copy() -> None:
        for _ in range(times):
            target.copy_(source)

    return [seconds / times for seconds in seconds_of(copy, device, repeats)]
