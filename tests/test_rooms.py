"""Imports point one way, between packages and between their folders, and in no circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("cola_envs", "cola_agents", "benchmarks")
#: Environments build the backbone of a model: the one import from below, made when a backbone is asked for.
DOOR = ("cola_envs.build", "cola_agents.decoding.loading")
#: What a room must be able to do without: (importer, imported), by the beginnings of their names.
NEVER = [
    ("cola_envs", "benchmarks"),
    ("cola_envs", "cola_agents"),
    ("cola_agents", "benchmarks"),
    ("cola_agents.rl", "cola_envs.grading"),
    ("cola_agents.rl", "cola_envs.tasks"),
    ("cola_agents.train", "stable_baselines3"),
    ("cola_agents.model", "stable_baselines3"),
]


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """What a file imports anywhere in it, as names of modules where they are ours."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            dotted = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in known else node.module for full in dotted.values()}
    return found


def arrows() -> dict[str, set[str]]:
    known = modules()
    found = {name: imports(path, known) - {name} for name, path in known.items()}
    found[DOOR[0]].discard(DOOR[1])
    return found


def room(module: str) -> str:
    """The folder of a module: the second part of its name where that is a folder."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and ROOT.joinpath(*parts[:2]).is_dir() else module


def test_no_files_import_each_other_in_a_circle() -> None:
    known = modules()
    TopologicalSorter({a: found & known.keys() for a, found in arrows().items()}).prepare()


def test_no_folders_import_each_other_in_a_circle() -> None:
    known, rooms = modules(), {}
    for module, found in arrows().items():
        if module not in PACKAGES:  # a package's face hands on names of all its rooms
            rooms.setdefault(room(module), set()).update(room(one) for one in found & known.keys())
    TopologicalSorter({a: found - {a, *PACKAGES} for a, found in rooms.items()}).prepare()


def test_rooms_do_without_what_is_above_them() -> None:
    found = arrows()
    within = lambda name, room: name == room or name.startswith(f"{room}.")  # noqa: E731
    wrong = [
        f"{module} imports {one}"
        for importer, imported in NEVER
        for module, ones in found.items()
        for one in ones
        if within(module, importer) and within(one, imported)
    ]
    assert wrong == []


def test_the_door_is_opened_when_it_is_asked_for_and_not_before() -> None:
    (build,) = [path for name, path in modules().items() if name == DOOR[0]]
    top = [node for node in ast.parse(build.read_text()).body if isinstance(node, ast.ImportFrom)]
    assert DOOR[1] not in {node.module for node in top}
    assert DOOR[1] in imports(build, modules())
