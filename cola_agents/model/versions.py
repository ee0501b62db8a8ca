"""The supported systems and versions of transformers, and the differences between these.

Minor versions of transformers rename arguments, and a model that ignores an argument silently generates other
tokens. So the range in ``pyproject.toml`` ends at the last minor version that was tested, and a version
outside of it is refused at import. CONTRIBUTING describes how to raise the bound.
"""

from __future__ import annotations

import inspect
import os
from functools import cache
from importlib.metadata import version

from packaging.version import Version

#: The first version that works, and the first that was not tested. ``pyproject.toml`` says the same (a test).
TRANSFORMERS = ("5.17", "5.25")


def check_system(name: str = os.name) -> None:
    """Raise ImportError on a system without the locks and processes of POSIX."""
    if name != "posix":
        raise ImportError(
            f"cola_agents needs Linux or macOS, and this system is {name!r}: it locks the folders that it "
            "writes as only these can. On Windows install it in WSL (docs/install.md)"
        )


def check_transformers(installed: str | None = None) -> None:
    """Raise ImportError for a version of transformers with which this package was not tested.

    Args:
        installed: the version to check; None for the installed one.
    """
    first, untested = TRANSFORMERS
    current = Version(installed or version("transformers"))
    if not Version(first) <= Version(current.base_version) < Version(untested):
        raise ImportError(
            f"transformers {current} is installed; cola-rl is tested with transformers from {first} to below "
            f"{untested}. Another version may rename a decoder's arguments, and the model would then "
            f"silently generate other tokens. Install a tested one: "
            f"pip install 'transformers>={first},<{untested}'"
        )


@cache
def cache_name() -> str:
    """The name of a model's cache argument: ``cache``, before transformers 5.24 ``past_key_values``."""
    from transformers.masking_utils import create_causal_mask  # here, so that the check needs no transformers

    return "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"


def cache_argument(cache: object) -> dict[str, object]:
    """A cache as a keyword argument of a model: ``{cache_name(): cache}``."""
    return {cache_name(): cache}
