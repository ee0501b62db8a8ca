"""The tasks: text in, text and reward out. A task imports only :mod:`cola_envs.task` and the grader."""
