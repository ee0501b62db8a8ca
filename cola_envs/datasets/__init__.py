"""Published problem sets: their sources and pinned hashes, fetching, reading and verifying.

None of their text is part of this package. :func:`fetch` downloads a set into a folder of this machine,
checked against pinned hashes; tasks read it there and never download anything.
"""

from cola_envs.datasets.catalogue import FILES, NAMES, DataFile, cache_folder, files_of, identify
from cola_envs.datasets.fetch import fetch
from cola_envs.datasets.problems import Problems, given_problems, math500_keys, problem_key, read_problems
from cola_envs.datasets.verify import Verified, verify

__all__ = [
    "FILES",
    "NAMES",
    "DataFile",
    "Problems",
    "Verified",
    "cache_folder",
    "fetch",
    "files_of",
    "given_problems",
    "identify",
    "math500_keys",
    "problem_key",
    "read_problems",
    "verify",
]
