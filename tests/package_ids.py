"""The environments that the package registers, read when tests are collected; tests register others."""

from __future__ import annotations

import gymnasium as gym

import cola_envs  # noqa: F401, it registers them

#: The specs by their ids, those over tokens among them.
PACKAGE_IDS = {key: spec for key, spec in gym.registry.items() if "builder" in spec.kwargs}
