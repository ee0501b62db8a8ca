"""``python -m benchmarks compare``: latent against token actions, with controls that separate the causes.

Runs are paired: every arm meets the same problems in the same order, over the same pre-trained seeds. What is
trained is measured on other problems than it was trained on, and options were searched on other seeds.
"""
