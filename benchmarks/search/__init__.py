"""Search at equal numbers of model tokens, over codes and over tokens: ``python -m benchmarks search``."""
