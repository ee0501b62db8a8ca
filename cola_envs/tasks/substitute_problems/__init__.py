"""Problem templates of the embedded set: seven subjects by five levels, every sentence our own.

A template draws its numbers from a ``random.Random`` and returns ``(problem, steps, answer, check)``:
``steps`` is the short solution without its last sentence, ``answer`` the content of the box, and ``check`` an
expression in sympy's and itertools' names that computes the answer by another road (by enumeration, by
solving, by integration). The checks are evaluated by the tests alone, never here.
"""

from cola_envs.tasks.substitute_problems import (
    algebra,
    counting_probability,
    geometry,
    intermediate_algebra,
    number_theory,
    prealgebra,
    precalculus,
)

#: Imported for the templates that they register.
__all__ = [
    "algebra",
    "counting_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
]
