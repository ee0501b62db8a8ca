"""The tasks: text in, text and reward out. They import :mod:`cola_envs.task`, its contract and the grader."""
