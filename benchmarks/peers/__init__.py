"""The speed of the bundled agents beside peers: the same weights, prompts and numbers of tokens, in turn.

``python -m benchmarks peers`` runs all of it on one thread. The peers are TRL's ``GRPOTrainer`` (its own
train loop, generation without vLLM) and Stable-Baselines3's ``PPO`` over a buffer that has a row for
each token, as RL4LMs trains.
"""
