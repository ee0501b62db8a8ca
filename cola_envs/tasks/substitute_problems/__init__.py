"""Problem templates of the embedded set, for seven subjects and five levels, all written for this project.

A template draws its numbers from a ``random.Random`` and returns ``(problem, steps, answer, check)``:
``steps`` is the solution without its last sentence, ``answer`` the content of the box, and ``check`` an
expression with names of sympy and itertools that computes the answer in another way (by enumeration, solving
or integration). Only the tests evaluate the checks.
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
