"""The latent-action model: its configuration, weights, checkpoint formats, and the one sampler."""
