"""Start-up: what ``import cola_agents`` and commands that need no model leave unimported."""

import ast
import json
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import cola_agents
from cola_agents.commands.pretrain import _STAGES

HEAVY = {"torch", "transformers", "numba", "stable_baselines3", "sympy", "scipy", "matplotlib", "tensorboard"}
COMMANDS = [
    ["tasks"],
    ["tasks", "CoLA-Math500-v0"],
    ["data", "path"],
    ["resume", "nowhere"],
    ["train", "--task", "CoLA-Thinking-v0", "--algo", "grpo", "--timesteps", "0", "--out", "never"],
]
_RUN = """
import contextlib, io, json, sys
from cola_agents.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(json.loads(sys.argv[1]))
print(json.dumps(sorted(sys.modules)))
"""


def loaded(code: str, *arguments: str) -> set[str]:
    """The modules in a fresh process after ``code``, whose last line prints them."""
    command = [sys.executable, "-c", code, *arguments]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return set(json.loads(lines[-1]))


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["train", "--algo", "dqn"],
        ["pretrain", "--help"],
        *(["pretrain", stage, "--help"] for stage in _STAGES),
    ],
)
def test_help_and_refused_arguments_import_neither_torch_nor_gymnasium(argv):
    assert not loaded(_RUN, json.dumps(argv)) & {*HEAVY, "numpy", "gymnasium", "cola_envs"}


@pytest.mark.parametrize(
    "argv", [["tasks"], ["tasks", "CoLA-Math500-v0"], ["data", "path"], ["resume", "nowhere"]]
)
def test_commands_without_a_model_import_none(argv):
    assert not loaded(_RUN, json.dumps(argv)) & HEAVY


def test_importing_the_package_imports_no_library_that_a_name_in_it_needs():
    after = loaded("import cola_agents, json, sys; print(json.dumps(sorted(sys.modules)))")
    assert not after & {*HEAVY, "numpy", "gymnasium", "cola_envs"}


def test_every_public_name_is_listed_before_it_is_imported():
    listed = loaded("import cola_agents, json; print(json.dumps(dir(cola_agents)))")
    assert set(cola_agents.__all__) <= listed


@pytest.mark.parametrize("name", cola_agents.__all__)
def test_a_public_name_is_that_of_its_module_and_pickles(name):
    value = getattr(cola_agents, name)
    assert value is getattr(import_module(f"cola_agents.{cola_agents._MODULES[name]}"), name)
    assert pickle.loads(pickle.dumps(value)) is value


def test_type_checkers_see_the_names_that_are_imported_when_used():
    tree = ast.parse(Path(cola_agents.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name: one.module for one in block.body for alias in one.names}
    assert typed == {name: f"cola_agents.{module}" for name, module in cola_agents._MODULES.items()}
    assert sorted(typed) == sorted(cola_agents.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        cola_agents.Nothing  # noqa: B018
