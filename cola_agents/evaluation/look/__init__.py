"""The data of `cola look`'s page, collected from a model, a run or a recording: see ``sources.py``."""
