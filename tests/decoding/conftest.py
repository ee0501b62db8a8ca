"""Fixtures of the tests of sessions."""

import pytest


@pytest.fixture(params=["state", "token"])
def kind(request: pytest.FixtureRequest) -> str:
    """A model whose actions are codes, and its base; see :func:`tests.decoding.fixed_memory.model_of`."""
    return str(request.param)
