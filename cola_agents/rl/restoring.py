"""From what was read of a saved agent to the agent: its arguments, and then its state."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import torch

from cola_agents.rl.actors import Actor
from cola_agents.rl.optimiser import Adam32
from cola_agents.rl.saving import SavedAgent, is_json
from cola_agents.rl.update import Record

#: Arguments of an environment that name what is called: they are never read from a saved agent's file.
CODE = ("builder", "task")


class Restorable(Protocol):
    """An agent, as far as its state is set here."""

    actor: Actor
    optimiser: Adam32
    fingerprint: str
    num_timesteps: int
    num_episodes: int
    num_updates: int
    history: list[Record]
    kl_coef: float


def nameable(env_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Those arguments of an environment that a file can hold, and that call nothing when they are read."""
    return {key: value for key, value in env_kwargs.items() if key not in CODE and is_json(value)}


def arguments_of(read: SavedAgent, name: str, changed: dict[str, Any]) -> dict[str, Any]:
    """What an agent is made with again.

    Args:
        name: of its class.
        changed: arguments in place of the saved ones.

    Raises:
        ValueError: for an agent of another class, or where an argument was not saved and is not given.
    """
    path, saved = read.path, read.description
    if saved["agent"] != name:
        raise ValueError(f"{path} holds a {saved['agent']}: load it with {saved['agent']}.load")
    again = saved["env_kwargs_not_saved"] + [key for key in saved["env_kwargs"] if key in CODE]
    if again and "env_kwargs" not in changed:
        raise ValueError(
            f"{path} was trained with {', '.join(again)}, which could not be saved: pass env_kwargs= again "
            "(on the command line --task module:Class, for a task of your own)"
        )
    kept = ("env_id", "num_envs", "seed", "model", "tokenizer", "device", "dtype", "env_kwargs")
    return {**{key: saved[key] for key in kept}, **saved["options"], **changed}


def take_over(agent: Restorable, read: SavedAgent, changed: Collection[str]) -> None:
    """Give an agent the weights, the optimiser's state and the counts that were saved.

    Args:
        changed: arguments that it was made with in place of the saved ones.

    Raises:
        ValueError: for an agent over another model, or with other weights.
    """
    path, saved = read.path, read.description
    if agent.fingerprint != saved["fingerprint"]:
        raise ValueError(
            f"{path} was trained over a model with fingerprint {saved['fingerprint'][:12]}, and this one "
            f"has {agent.fingerprint[:12]}; pass model= the one it was trained over"
        )
    trained = agent.actor.trained()
    if set(read.weights) != set(trained):
        odd = sorted(set(read.weights) ^ set(trained))
        raise ValueError(
            f"{path} holds other weights than this agent trains: {odd[0]} and {len(odd) - 1} more"
        )
    for name, parameter in trained.items():
        weight = read.weights[name]
        if weight.shape != parameter.shape or ("dtype" not in changed and weight.dtype != parameter.dtype):
            raise ValueError(
                f"{path} holds {name} as {weight.dtype} of shape {tuple(weight.shape)}, and this agent "
                f"trains it as {parameter.dtype} of shape {tuple(parameter.shape)}"
            )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(read.weights[name])
    agent.optimiser.load_state_dict(read.optimiser, keep_lr="lr" in changed)
    agent.num_timesteps, agent.num_episodes, agent.num_updates = (
        saved[name] for name in ("num_timesteps", "num_episodes", "num_updates")
    )
    agent.history = read.history
    if "kl_coef" not in changed:
        agent.kl_coef = saved["kl_coef"]
