"""Adaptors that hand another library the batched environment: one forward pass of the model for all rows.

Each module imports its library, which is no dependency of this package; ``docs/libraries.md`` says which
libraries need an adaptor.
"""
