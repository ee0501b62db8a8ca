"""Adaptors that hand another library the batched environment: one forward pass of the model for all rows.

Each module imports its library, which is not a dependency of this package (``pip install 'cola-rl[libraries]'``);
``docs/libraries.md`` says which library needs which.
"""
