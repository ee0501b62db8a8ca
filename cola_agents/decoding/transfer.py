"""The only ways from the host to a model's device and back, so that a step can count them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def to_device(values: Sequence[object] | np.ndarray, device: torch.device) -> Tensor:
    """A tensor of numbers on a device; the host does not wait for the copy."""
    made = torch.as_tensor(np.asarray(values))
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made


def to_host(values: Tensor) -> np.ndarray:
    """A new array with a tensor's numbers. The host waits until the device has computed them."""
    array: np.ndarray = values.cpu().numpy()
    return array.copy() if values.device.type == "cpu" else array
