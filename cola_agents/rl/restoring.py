"""The methods of an agent that save it into a folder and load it from there."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import torch

from cola_agents.decoding.contract import PolicyBackbone
from cola_agents.rl.actors import Actor
from cola_agents.rl.optimiser import Adam32
from cola_agents.rl.options import AgentOptions
from cola_agents.rl.policy import TrainedPolicy
from cola_agents.rl.saver import Saver
from cola_agents.rl.saving import SavedAgent, as_json, read_saved, saved_path
from cola_agents.rl.update import Record
from cola_agents.rl.workers import RolloutWorkers
from cola_envs.episodes import Episodes

#: Environment arguments that name code to call: they are never read from a saved agent's file.
CODE = ("builder", "task")
#: What may be given by the name of a folder.
_PLACES = ("model", "tokenizer")


class SavingMixin:
    """Adds :meth:`save` and :meth:`load` to an agent."""

    actor: Actor
    episodes: Episodes
    env_id: str
    env_kwargs: dict[str, Any]
    history: list[Record]
    kl_coef: float
    num_envs: int
    num_episodes: int
    num_timesteps: int
    num_updates: int
    optimiser: Adam32
    options: AgentOptions
    policy: TrainedPolicy
    seed: int
    source: dict[str, str | None]
    workers: RolloutWorkers
    _finished: tuple[int, int]
    _finished_steps: int
    _frozen: PolicyBackbone
    _saver: Saver

    @property
    def interrupted_mid_update(self) -> bool:
        """Whether the last update was interrupted between its gradient steps."""
        return self.optimiser.steps != self._finished_steps

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError(
            f"a {type(self).__name__} is neither pickled nor copied: save(folder) writes it, and "
            f"{type(self).__name__}.load(folder) makes as many of it as you like"
        )

    def save(self, path: str | Path) -> Path:
        """Save the agent into a folder: weights (safetensors), optimiser, options, history.

        An interrupt leaves a whole agent in the folder: the previous one or this one. The previous save and
        its files are kept, in case this one is damaged later. The backbone is not saved: it is named, with
        its fingerprint, and so are the trained weights that are still the backbone's (before the first
        update that is all of them). In the middle of a rollout the agent is saved as of the last finished
        update; the loaded agent plays the rollout again.

        Environment arguments are saved as JSON: tuples are loaded as lists, paths as text. A task, and what
        JSON does not hold, is left out, the latter with a warning; :meth:`load` must be given it again.

        Of several processes the first one writes, and the others do not wait for it. Before they load the
        agent, all of them must make an update or call ``agent.workers.exchange(None)``. :meth:`learn` with
        ``save_to`` returns when the agent is written.

        Args:
            path: the folder; a trailing ``.zip``, which Stable-Baselines3's callbacks append, is dropped.

        Raises:
            FileExistsError: if ``path`` holds something other than a saved agent.
            InUseError: while another process writes there.
            FloatingPointError: for a weight that is not finite.
            OSError: if it cannot be written. After any of these the previous save is unchanged.
        """
        if self.interrupted_mid_update:
            warnings.warn(
                f"update {self.num_updates + 1} ended half-way through its gradient steps: the agent is "
                "saved as it is, and its training will differ from one that was never interrupted",
                stacklevel=2,
            )
        path = saved_path(path)
        if self.workers.rank == 0:  # nothing is exchanged: a callback of the first process may save
            trained, unchanged = self.actor.trained(), self._unchanged()
            weights = {name: p.detach().contiguous() for name, p in trained.items() if name not in unchanged}
            description = {
                **self._description(),
                "unchanged": sorted(unchanged),
                "beside": self._beside(path),
            }
            left_out = [name for name in description["env_kwargs_not_saved"] if name not in CODE]
            if left_out:
                warnings.warn(
                    f"the environment's {', '.join(left_out)} cannot be saved, since JSON does not hold it: "
                    "give env_kwargs= again to load the agent; numbers, texts, paths, and lists and dicts of "
                    "them are saved",
                    stacklevel=2,
                )
            self._saver.write(path, description, weights, self.optimiser.state_dict(), self.history)
        return path

    def save_bytes(self) -> int:
        """About the size of a save after the first update: trained weights, and Adam's state of them."""
        return sum(
            p.numel() * (8 + p.element_size() + 4 * (p.dtype != torch.float32))
            for p in self.actor.trained().values()
        )

    def _unchanged(self) -> set[str]:
        """Names of trained weights that are still the initial policy's; they are read from the model."""
        initial = self._initial()
        trained = self.actor.trained().items()
        return {name for name, p in trained if name in initial and torch.equal(p, initial[name])}

    def _initial(self) -> dict[str, torch.Tensor]:
        """The initial policy's weights by name; empty where low-rank adapters are trained beside them."""
        reference = self.policy.reference
        return {} if reference is None else {name: p.detach() for name, p in reference.named_parameters()}

    def _named_kwargs(self) -> dict[str, Any]:
        """The environment arguments that can be saved, as they are read again."""
        named = {}
        for key, value in self.env_kwargs.items():
            with suppress(TypeError):
                if key not in CODE:
                    named[key] = as_json(value)
        return named

    def _description(self) -> dict[str, Any]:
        named = self._named_kwargs()
        timesteps, episodes = self._finished
        return {
            "agent": type(self).__name__,
            "env_id": self.env_id,
            "env_kwargs": named,
            "env_kwargs_not_saved": sorted(set(self.env_kwargs) - set(named)),
            "num_envs": self.num_envs,
            "seed": self.seed,
            "prompt_format": self.episodes.format.name,
            **self.source,
            "fingerprint": self._frozen.fingerprint,
            "options": dataclasses.asdict(self.options),
            "kl_coef": self.kl_coef,
            "num_timesteps": timesteps,
            "num_episodes": episodes,
            "num_updates": self.num_updates,
        }

    def _beside(self, path: Path) -> dict[str, str]:
        """Where the model and the tokenizer are, as seen from the agent's folder, if they are folders."""
        return {
            name: Path(os.path.relpath(place, path.resolve())).as_posix()
            for name in _PLACES
            if (place := self.source[name]) is not None and Path(place).is_dir()
        }

    @classmethod
    def load(cls, path: str | Path, **changed: Any) -> Self:
        """Load an agent that :meth:`save` wrote; its training continues exactly where it stopped.

        Files are checked against their digests. If the newest save is damaged, the previous one is loaded,
        with a warning. Of several processes all call this; see :meth:`save` for when.

        Args:
            path: the folder.
            changed: constructor arguments to replace: ``model=`` if a model object was passed, or where the
                model's folder was moved to (one that was moved together with the agent's is found);
                ``env_kwargs=`` if they held something that JSON cannot (a task class, say); options such as
                ``lr=`` and ``kl_coef=``, which apply from the next update on.

        Raises:
            FileNotFoundError: if there is no saved agent, or the folder of its model is not there any more.
            DamagedError: a ValueError, if no save is whole; it names the damaged file.
            ValueError: for an agent of another class, or a model other than the one it was trained over.
        """
        return cls.restored(read_saved(saved_path(path)), **changed)

    @classmethod
    def restored(cls, read: SavedAgent, **changed: Any) -> Self:
        """:meth:`load` from content that has been read already."""
        agent = cls(**saved_arguments(read, cls.__name__, changed))
        agent._restore(read, changed)
        return agent

    def _restore(self, read: SavedAgent, changed: Collection[str]) -> None:
        """Set weights, optimiser and counts to the saved ones.

        Args:
            changed: constructor arguments that replace saved ones.

        Raises:
            ValueError: if the agent is over another model or trains other weights.
        """
        path, saved = read.path, read.description
        own = self._frozen.fingerprint
        if own != saved["fingerprint"]:
            raise ValueError(
                f"{path} was trained over a model with fingerprint {saved['fingerprint'][:12]}, and this one "
                f"has {own[:12]}; pass model= the one it was trained over"
                + (f", and dtype={saved['dtype']!r} or none" if "dtype" in changed else "")
            )
        trained, initial = self.actor.trained(), self._initial()
        unchanged = {name: initial[name] for name in saved.get("unchanged", ()) if name in initial}
        weights = {**unchanged, **read.weights}
        if set(weights) != set(trained):
            odd = sorted(set(weights) ^ set(trained))
            raise ValueError(
                f"{path} holds other weights than this agent trains: {odd[0]} and {len(odd) - 1} more"
            )
        for name, parameter in trained.items():
            weight = weights[name]
            if (weight.shape, weight.dtype) != (parameter.shape, parameter.dtype):
                raise ValueError(
                    f"{path} holds {name} as {weight.dtype} of shape {tuple(weight.shape)}, and this agent "
                    f"trains it as {parameter.dtype} of shape {tuple(parameter.shape)}"
                )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(weights[name])
        self.optimiser.load_state_dict(read.optimiser, keep_lr="lr" in changed)
        self.num_timesteps, self.num_episodes, self.num_updates = (
            saved[name] for name in ("num_timesteps", "num_episodes", "num_updates")
        )
        self.history = read.history
        if "kl_coef" not in changed:
            self.kl_coef = saved["kl_coef"]
        self._finished = self.num_timesteps, self.num_episodes


def saved_arguments(read: SavedAgent, name: str, changed: dict[str, Any]) -> dict[str, Any]:
    """The constructor arguments of a saved agent.

    Args:
        name: the name of its class.
        changed: arguments that replace saved ones.

    Raises:
        ValueError: for an agent of another class, or an argument that could not be saved and is not passed.
    """
    path, saved = read.path, read.description
    if saved["agent"] != name:
        raise ValueError(f"{path} holds a {saved['agent']}: load it with {saved['agent']}.load")
    check_given_again(path, saved, changed)
    kept = ("env_id", "num_envs", "seed", "device", "dtype", "env_kwargs")
    places = {key: _found(path, saved, key) for key in _PLACES if key not in changed}
    return {**{key: saved[key] for key in kept}, **places, **saved["options"], **changed}


def place_of(given: object) -> str | None:
    """How a model or a tokenizer is named that was given by name: a folder by its whole path."""
    if not isinstance(given, (str, Path)):
        return None
    return str(Path(given).resolve() if Path(given).is_dir() else given)


def _found(path: Path, saved: dict[str, Any], name: str) -> str | None:
    """Where the model or the tokenizer of a saved agent is now.

    Raises:
        FileNotFoundError: for a folder that was moved alone.
    """
    named, beside = saved[name], saved.get("beside", {}).get(name)
    if beside is None:
        place: str | None = named
        return place
    folders = [Path(os.path.normpath(path.resolve() / beside)), Path(named)]
    for folder in folders:
        if folder.is_dir():
            return str(folder)
    raise FileNotFoundError(
        f"{path} was trained over the {name} in {named}, and there is no such folder any more: pass {name}= "
        f"with where it is now (on the command line --{name})"
    )


def check_given_again(path: Path, saved: dict[str, Any], changed: Collection[str]) -> None:
    """Raise ValueError for environment arguments that a folder could not hold, where none are passed."""
    left_out = not_saved(saved)
    if left_out and "env_kwargs" not in changed:
        flags = ["--task module:Class" if name == "task" else f"--env {name}=..." for name in left_out]
        raise ValueError(
            f"{path} was trained with {', '.join(left_out)}, which could not be saved: pass env_kwargs= "
            f"again (on the command line {' '.join(flags)})"
        )


def not_saved(description: dict[str, Any]) -> list[str]:
    """The environment arguments of a saved agent that must be given again, by name."""
    return [*description["env_kwargs_not_saved"], *(key for key in description["env_kwargs"] if key in CODE)]
