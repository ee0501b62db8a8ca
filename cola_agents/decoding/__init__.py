"""Decoding: caches with rows of unequal length, sessions, and the two backbones (action spaces) over them."""
