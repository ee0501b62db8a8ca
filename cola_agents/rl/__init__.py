"""Reinforcement learning: rollouts, losses, one update, and the bundled agents."""
