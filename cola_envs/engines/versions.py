"""Look up the versions of installed engines without importing them."""

from __future__ import annotations

from importlib import metadata


def engine_versions(extra: str, *distributions: str) -> dict[str, str]:
    """Installed versions by distribution.

    Args:
        extra: the extra of this package that installs them.
        distributions: their names, the engine's own first.

    Raises:
        ModuleNotFoundError: if one is not installed, with the command to install it.
    """
    versions = {}
    for name in distributions:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError as error:
            raise ModuleNotFoundError(
                f"{name} is not installed; this task runs on it: pip install 'cola-rl[{extra}]'"
            ) from error
    return versions
