"""Check that each field of ``info`` has one type in all episodes."""

from __future__ import annotations

import numpy as np

from cola_envs.fields import OWN, Info

#: Names of fields that Gymnasium's vector environments and wrappers write.
TAKEN = ("final_obs", "final_info", "episode")
_INT64 = np.iinfo(np.int64)


class InfoKinds:
    """Checks that the fields of every ``info`` have the types of earlier ones.

    A Gymnasium vector environment keeps a field of all rows in one array of the first row's type, which the
    values of the other rows must fit.
    """

    def __init__(self) -> None:
        self._seen = {field.name: field.kind.__name__ for field in OWN}

    def see(self, info: Info, inside: str = "") -> None:
        """Compare the fields of an ``info``, and of dicts in it, with those seen so far.

        Raises:
            AssertionError: for a field that changed its type or cannot be kept in an array, with its name.
        """
        for key, value in info.items():
            name = f"info{inside}[{key!r}]"
            assert f"_{key}" not in info, (
                f"{name} and info{inside}['_{key}']: vector environments write the latter"
            )
            assert inside or key not in TAKEN, f"{name} is a name that Gymnasium writes to: choose another"
            assert type(value) is not int or _INT64.min <= value <= _INT64.max, (
                f"{name} is {value}, too large for an array of integers: give it as a string"
            )
            kind = _kind(value)
            before = self._seen.setdefault(name if inside else key, kind)
            assert kind == before, (
                f"{name} is {kind} here and {before} elsewhere: give a field one type in all episodes and "
                "steps ('' instead of None for a missing text), or Gymnasium's vector environments fail"
            )
            if isinstance(value, dict):
                self.see(value, f"{inside}[{key!r}]")


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {value.shape}"
    return type(value).__name__
