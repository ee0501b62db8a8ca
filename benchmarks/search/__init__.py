"""Search at equal numbers of model tokens, over codes and over tokens: ``python -m benchmarks search``."""

from benchmarks.search.command import add

__all__ = ["add"]
