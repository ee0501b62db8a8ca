"""Functions that numba compiles, and the files that keep the compiled code for later processes.

numba's own files are an index and, written after it, the code that it names. Where a disk is full after the
first of the two, a later process can find the code of an older source under the new index. Here a file holds
both: its name is a digest of everything that the code was made of, and it begins with a digest of the code. A
file that is missing, cut short or of another source is not read, and the function is compiled again.

The files lie beside the source, or, where that folder cannot be written, in the user's cache folder
(``NUMBA_CACHE_DIR`` names another). Where no folder can be written, or the disk is full, nothing is kept, and
every process compiles.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

from cola_agents.common.files import write_whole

_Loops = TypeVar("_Loops", bound=Callable[..., Any])

#: Compiler flags: sums may be reordered and products fused, but values need not be finite.
REORDERED = frozenset({"reassoc", "contract", "nsz", "arcp"})


def compiled(loops: _Loops) -> _Loops:
    """Compile a function at its first call, or read what an earlier process of this user compiled."""
    made = numba.njit(fastmath=set(REORDERED))(loops)
    # RuntimeError: no folder can be written. OSError: there is no source to make a digest of.
    with suppress(RuntimeError, OSError):
        made._cache = _Cache(loops)
    return cast(_Loops, made)


class _Cache(FunctionCache):  # type: ignore[misc]
    """numba's choice of a folder, with :class:`_Files` in it."""

    def __init__(self, loops: Callable[..., Any]) -> None:
        super().__init__(loops)
        source = inspect.getsourcefile(loops)
        if source is None:
            raise OSError(f"no source of {loops.__qualname__}")
        made_of = (Path(source).read_bytes(), numba.__version__, sorted(REORDERED), loops.__qualname__)
        stem = f"{Path(source).stem}.{loops.__name__}"
        self._cache_file = _Files(Path(self.cache_path), stem, repr(made_of))

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):  # this process has what it compiled; the next compiles again
            super().save_overload(sig, data)


class _Files:
    """A file of compiled code for each type of arguments and processor.

    Args:
        folder: where they lie.
        stem: how their names begin.
        made_of: the source and everything else that all of them depend on.
    """

    def __init__(self, folder: Path, stem: str, made_of: str) -> None:
        self._folder, self._stem, self._made_of = folder, stem, made_of

    def save(self, key: object, data: object) -> None:
        """Keep the compiled code ``data`` of one type of arguments.

        Raises:
            OSError: where it cannot be written.
        """
        code = pickle.dumps(data)
        write_whole(self._path(key), hashlib.sha256(code).digest() + code)

    def load(self, key: object) -> object | None:
        """The compiled code of one type of arguments; None if it is not kept."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        digest, code = content[:32], content[32:]
        return pickle.loads(code) if hashlib.sha256(code).digest() == digest else None

    def _path(self, key: object) -> Path:
        name = hashlib.sha256(repr((self._made_of, key)).encode()).hexdigest()[:32]
        return self._folder / f"{self._stem}-{name}.compiled"
