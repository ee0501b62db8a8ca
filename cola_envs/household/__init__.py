"""Generate household games in ALFWorld's PDDL domain and vocabulary, in pure Python without an engine."""

from __future__ import annotations

from cola_envs.household.generator import LEVELS, SPLITS, TASK_TYPES, HouseholdGame, generate

__all__ = ["LEVELS", "SPLITS", "TASK_TYPES", "HouseholdGame", "generate"]
