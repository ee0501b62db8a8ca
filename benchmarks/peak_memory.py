"""The most memory in use while something runs."""

from __future__ import annotations

import gc
from pathlib import Path

import torch


def free_memory(device: torch.device) -> None:
    """Collect garbage, and hand a GPU's unused memory back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class PeakMemory:
    """The most memory in use since :meth:`begin`.

    On a GPU what tensors took. On Linux what the process took, as the kernel counts it; elsewhere nothing is
    known.

    Args:
        device: where the tensors are.
        beyond_start: on the CPU, count what the process took beyond what it had when this was made.
    """

    def __init__(self, device: torch.device, *, beyond_start: bool = True) -> None:
        self._device = device
        self._status = Path("/proc/self/status")
        self._reset = Path("/proc/self/clear_refs")
        self._before = self._field("VmRSS")
        if device.type == "cuda":
            self.what = "tensors on the GPU"
        elif self._before is None:
            self.what = "not measured here"
        else:
            self.what = "the process beyond its start" if beyond_start else "the process"
        if self._before is not None and not beyond_start:
            self._before = 0.0

    def begin(self) -> None:
        """Reset the peak, after collecting garbage."""
        free_memory(self._device)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._before is not None:
            self._reset.write_text("5")  # the peak becomes what is resident now

    def mib(self) -> float | None:
        if self._device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self._device) / 2**20, 1)
        peak = self._field("VmHWM")
        return None if peak is None or self._before is None else round(peak - self._before, 1)

    def _field(self, name: str) -> float | None:
        """A field of the process's status in MiB; None where there is none, or no way to set it back."""
        if not self._status.is_file() or not self._reset.exists():
            return None
        for line in self._status.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
        return None
