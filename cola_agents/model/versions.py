"""Which versions of transformers this package works with, and what differs between them.

Minor versions of transformers rename arguments, and a model that ignores an argument writes other tokens
without a word. So the range in ``pyproject.toml`` ends at the last minor version that was tested, and a
version outside of it is refused at import. CONTRIBUTING says how the bound is raised.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version

from packaging.version import Version

#: The first version that works, and the first that was not tested. ``pyproject.toml`` says the same (a test).
TRANSFORMERS = ("5.17", "5.25")


def check_transformers(installed: str | None = None) -> None:
    """Refuse a version of transformers that this package was not tested with.

    Args:
        installed: the version to judge; None for the one that is installed.

    Raises:
        ImportError: naming the version that came, the range that is tested, and the command that installs it.
    """
    first, untested = TRANSFORMERS
    found = Version(installed or version("transformers"))
    if not Version(first) <= Version(found.base_version) < Version(untested):
        raise ImportError(
            f"transformers {found} is installed; cola-rl is tested with transformers from {first} to below "
            f"{untested}. Another version may name a decoder's arguments otherwise, and the model would then "
            f"write other tokens without a word. Install a tested one: "
            f"pip install 'transformers>={first},<{untested}'"
        )


def cache_argument(cache: object) -> dict[str, object]:
    """A cache under the name by which transformers takes it: ``cache``, before 5.24 ``past_key_values``."""
    return {CACHE_NAME: cache}


check_transformers()  # before anything of transformers is imported

from transformers.masking_utils import create_causal_mask  # noqa: E402

CACHE_NAME = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"
