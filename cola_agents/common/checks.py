"""Checks of the fields of a configuration."""

from __future__ import annotations

from collections.abc import Sequence


def check_fields(
    config: object,
    *,
    counts: Sequence[str] = (),
    seeds: Sequence[str] = (),
    numbers: Sequence[str] = (),
    positive: Sequence[str] = (),
    flags: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> None:
    """Check fields of a frozen configuration; numbers of NumPy become Python's, which JSON takes.

    Args:
        counts: fields that are integers of at least 1.
        seeds: fields that are integers of at least 0.
        numbers: fields that are finite numbers of at least 0.
        positive: fields that are finite numbers above 0.
        flags: fields that are True or False.
        optional: those of all of these that may be None.

    Raises:
        ValueError: for any other value, naming the field.
    """
    from cola_envs.checks import check_count, check_number  # here, so that --help needs no gymnasium

    lows = {**dict.fromkeys(counts, 1), **dict.fromkeys(seeds, 0)}
    for name in (*lows, *numbers, *positive, *flags):
        value = getattr(config, name)
        if value is None and name in optional:
            continue
        if name in flags:
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, got {value!r}")
            continue
        number = check_count(name, value, lows[name]) if name in lows else check_number(name, value, 0.0)
        if name in positive and number == 0:
            raise ValueError(f"{name} must be above 0, got {value}")
        if type(value) not in (int, float):
            object.__setattr__(config, name, number)
