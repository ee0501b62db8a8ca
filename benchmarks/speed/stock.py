"""ALFWorld's own stack as an engine: the reference for ours in benchmarks and tests."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cola_envs.engines import Opening, Reply


def shipped() -> tuple[str, str]:
    """ALFWorld's domain and grammar, read without importing it."""
    spec = find_spec("alfworld")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    data = Path(next(iter(spec.submodule_search_locations))) / "data"
    return (data / "alfred.pddl").read_text(), (data / "alfred.twl2").read_text()


def complete(game: dict[str, Any]) -> dict[str, Any]:
    """A generated game as the contents of an ALFWorld game file."""
    domain, grammar = shipped()
    return {
        "pddl_domain": domain,
        "grammar": grammar.replace("UNKNOWN GOAL", game["goal"]),
        "pddl_problem": game["pddl_problem"],
        "solvable": True,
        "walkthrough": game["walkthrough"],
    }


class StockEngine:
    """``AlfredDemangler(PddlEnv)`` as ALFWorld makes it, one environment a row."""

    def __init__(self, data: str) -> None:
        os.environ["ALFWORLD_DATA"] = data  # or importing it makes a folder in the user's cache
        self.envs: dict[int, Any] = {}
        self.states: dict[int, Any] = {}

    def reset(self, row: int, game: Any) -> Opening:
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld import EnvInfos
        from textworld.envs.pddl import PddlEnv

        env = self.envs[row] = AlfredDemangler(PddlEnv(EnvInfos(won=True, admissible_commands=True)))
        env.load(complete(game) if "goal" in game else game)
        state = self.states[row] = env.reset()
        return Opening(state.feedback, tuple(state["admissible_commands"]))

    def step(self, row: int, command: str) -> Reply:
        valid = command in self.states[row]["admissible_commands"]
        state, score, done = self.envs[row].step(command)
        self.states[row] = state
        admissible = tuple(state["admissible_commands"])
        return Reply(state.feedback, float(score), done, state["won"], valid, admissible)

    def plan(self, row: int) -> tuple[str, ...]:
        env = self.envs[row]
        return tuple(env._pddl_state.replan(env._entity_infos))

    def close(self) -> None:
        self.envs.clear()
