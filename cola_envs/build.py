"""Build :class:`~cola_envs.episodes.Episodes` from the keyword arguments of ``gym.make``."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeGuard, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import UnsupportedMode

from cola_envs.answers import OnTaskError
from cola_envs.backbone import Backbone, Level
from cola_envs.checks import ArgumentError, check_choice, check_settings, check_stop
from cola_envs.episodes import Episodes
from cola_envs.prompts import FormatName, check_format
from cola_envs.shots import Shots, as_lists, read_shots
from cola_envs.task import EachRow, TaskBatch

#: A factory of tasks: of one row's :class:`~cola_envs.task.Task`, or of the TaskBatch of all rows.
Builder = Callable[..., Any]
#: Keyword arguments of ``gym.make``.
Settings = dict[str, Any]
RENDER_MODES = ("ansi", "human", "rgb_array")
#: Render modes of the environment with one episode.
SINGLE_RENDER_MODES = (*RENDER_MODES, "html")
#: Methods of a TaskBatch.
_OF_BATCHES = ("reset", "step", "info", "snapshot", "restore", "close")
#: Arguments of vector environments, and where each is given.
_OF_VECTORS = {
    "num_envs": "gym.make_vec(id, num_envs=...)",
    "autoreset_mode": "gym.make_vec(id, num_envs=..., autoreset_mode=...), or, with "
    "vectorization_mode='sync' or 'async', "
    "vector_kwargs={'autoreset_mode': gymnasium.vector.AutoresetMode.SAME_STEP}",
}
#: Default splits of a task that takes ``split=``; a builder with others has an attribute ``splits``.
SPLITS = ("train", "test")


class _Checked(Exception):
    """All arguments of an environment but its model were checked; holds the tasks that were built, if any."""

    def __init__(self, tasks: TaskBatch | None) -> None:
        super().__init__()
        self.tasks = tasks


#: Arguments of an environment that its episodes do not have.
_SHELL = ("render_mode", "max_episode_steps", "autoreset_mode")
#: As ``model=``: check every other argument, and end there.
NO_MODEL: Any = object()


def check_environment(env_id: str, /, **settings: Any) -> TaskBatch | None:
    """Check the arguments of an environment before its model is loaded, or whatever else takes long.

    A task of this package is built for one row, and closed again. One that starts processes, and one of the
    user's own, which may count how often it is built, are built with the environment alone: here the names
    of their arguments are checked, not the values. ``device`` and ``dtype`` and what the model says of the
    prompt format are checked with the model.

    Args:
        env_id: a registered id of this package.
        settings: arguments of ``gym.make``; ``model``, ``tokenizer`` and those of the shell around the
            episodes (``render_mode``, ``max_episode_steps``, ``autoreset_mode``) are not looked at.

    Returns:
        The task, closed: to read how many problems it has. None for one that was not built.

    Raises:
        TypeError, ValueError: as ``gym.make``; also for an id of another package.
    """
    registered = spec_of(env_id).kwargs
    settings = {name: value for name, value in settings.items() if name not in _SHELL}
    if "builder" not in registered:
        raise ValueError(f"{env_id} is not one of the CoLA environments")
    try:
        build_episodes(1, **{**registered, **settings, "model": NO_MODEL})
    except _Checked as checked:
        return checked.tasks
    raise AssertionError("without a model no episodes are built")


def build_episodes(
    num_rows: int,
    /,
    *,
    builder: str | Builder,
    actions: Level = "latent",
    default_max_tokens: int = 64,
    model: object = None,
    tokenizer: object = None,
    split: str = "train",
    max_tokens: int | None = None,
    budget_end: Literal["terminate", "truncate"] = "terminate",
    world_temperature: float = 0.0,
    observation: Literal["hidden", "features", "tokens"] = "hidden",
    prior_coef: float = 0.0,
    on_task_error: OnTaskError = "raise",
    prompt_format: FormatName | None = None,
    system: str | None = None,
    shots: Shots = (),
    chat_template_kwargs: Mapping[str, object] | None = None,
    device: str | None = None,
    dtype: str = "float32",
    **task_kwargs: Any,
) -> Episodes:
    """Check every argument, build the tasks, then load the model, so that errors come before slow work.

    Args:
        num_rows: number of rows.
        builder: a callable, or its name as ``"module:name"``. One with a parameter ``num_rows`` is called
            once and returns a :class:`~cola_envs.task.TaskBatch`; any other is called once for each row and
            returns a :class:`~cola_envs.task.Task`.
        actions: ``"latent"`` or ``"token"``, the level of the Backbone.
        default_max_tokens: the token budget if ``max_tokens`` is None.
        model: the language model: a path, a hub id, a model object or a Backbone; None for the bundled one.
        tokenizer: a path, a hub id or a tokenizer object; None for the model's own.
        device: the device of the model; None for the CPU, or for where a model object is.
        dtype: the type of a model's weights that is loaded by path or hub id.
        split: ``"train"``, ``"test"`` or one of the builder's ``splits``; passed to builders with splits.
        task_kwargs: passed to the builder.

    The other arguments are those of :class:`~cola_envs.episodes.Episodes`.

    Raises:
        TypeError: for an unknown keyword, or a value of the wrong type.
        ValueError: for a value that is not allowed.
    """
    if actions not in ("latent", "token"):
        raise ValueError(f"actions must be 'latent' or 'token', got {actions!r}")
    budget = default_max_tokens if max_tokens is None else max_tokens
    settings: Settings = {
        "num_rows": num_rows,
        "max_tokens": budget,
        "budget_end": budget_end,
        "world_temperature": world_temperature,
        "observation": observation,
        "prior_coef": prior_coef,
        "on_task_error": on_task_error,
    }
    check_settings(**settings)
    check_format(prompt_format, system, chat_template_kwargs)
    num_rows = int(num_rows)
    known = splits_of(builder) or SPLITS
    split = check_choice("split", split, known)
    if model is NO_MODEL and not _may_be_built_twice(builder):
        check_task(load(builder), split, task_kwargs)
        raise _Checked(None)
    tasks = build_tasks(num_rows, load(builder), split=split, **task_kwargs)
    try:
        shots = read_shots(shots, tasks)
        if model is NO_MODEL:
            raise _Checked(tasks)
        backbone = resolve(model, level=actions, tokenizer=tokenizer, device=device, dtype=dtype)
        return Episodes(
            backbone,
            tasks,
            **settings,
            prompt_format=prompt_format,
            system=system,
            shots=shots,
            chat_template_kwargs=chat_template_kwargs,
        )
    except BaseException:
        tasks.close()
        raise


def build_tasks(num_rows: int, builder: Builder, /, *, split: str = "train", **kwargs: Any) -> TaskBatch:
    """Check a task builder's keywords and call it, once for all rows or once for each row.

    Raises:
        TypeError: for a keyword that neither the environments nor the builder take.
        ValueError: for a split other than ``"train"`` if the task has no splits.
    """
    check_task(builder, split, kwargs)
    if splits_of(builder):
        kwargs["split"] = split
    if "num_rows" in _parameters(builder):
        return _checked_batch(builder(num_rows, **kwargs), builder)
    return EachRow(lambda: builder(**kwargs), num_rows)


def check_task(builder: Builder, split: str, kwargs: Mapping[str, object]) -> None:
    """Raise TypeError or ValueError as :func:`build_tasks` does, for what can be told without a call."""
    parameters = _parameters(builder)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in kwargs:
        if name == "num_rows" or not (open_ended or name in parameters):
            raise ArgumentError(_unknown(name, parameters))
    if split != SPLITS[0] and not splits_of(builder):
        raise ValueError(f"this task has no splits: leave out split={split!r}")


def _may_be_built_twice(builder: str | Builder) -> bool:
    """Whether a task is one of this package that starts no processes."""
    ours = isinstance(builder, str) and builder.startswith("cola_envs.tasks.")
    return ours and not getattr(load(builder), "starts_processes", False)


def splits_of(builder: str | Builder) -> tuple[str, ...]:
    """The splits of a task builder, the training split first; empty if it takes no ``split=``.

    They are its attribute ``splits``, by default ``("train", "test")``.
    """
    builder = load(builder)
    if hasattr(builder, "splits") or "split" in _parameters(builder):
        return tuple(getattr(builder, "splits", SPLITS))
    return ()


def evaluation_split(builder: str | Builder) -> str:
    """The default split of an evaluation: ``"test"``, or else the last of the splits."""
    splits = splits_of(builder)
    return "test" if "test" in splits else splits[-1] if splits else SPLITS[0]


def own_task(num_rows: int, *, task: str | Builder | None = None) -> TaskBatch:
    """A task of your own, given as ``task=``.

    **Prompt.** The text that the task's ``reset(rng)`` returns.

    **Prompt formats.** Plain text: ``"Story:"``. In a chat, the user's message: ``"Story:"``. There the
    task's ``plain_frame`` is left out, and each ``Turn.text`` is a user's message.

    **Actions.** Text. A segment ends at one of the task's ``stop`` strings, at the model's end-of-text token,
    or when the token budget is spent; it is then passed to ``step(text)``.

    **Observation.** The prompt, the agent's text and ``Turn.text`` after each segment.

    **Reward.** ``Turn.reward``, at the end of each segment.

    **Episode end.** ``Turn.done`` terminates and ``Turn.truncated`` truncates, besides the token budget and
    the context.

    **Info.** ``Turn.info``, and at reset and at the end the task's ``info``.

    **Data and licence.** The task's own.

    **Versions.** v0: first version.

    Args:
        task: a factory of tasks: a class or other callable without arguments, called once for each row; one
            with a parameter ``num_rows``, called once for the TaskBatch of all rows; or the name of either as
            ``"module:name"``.

    Raises:
        TypeError: without ``task``, or for one that cannot be called.
        ImportError: for a name that does not exist.
    """
    if task is None:
        raise TypeError(
            "CoLA-Text needs task=: a factory that is called once a row and returns a cola_envs.Task, "
            'e.g. the class itself: gym.make("CoLA-Text-v0", task=MyTask)'
        )
    if isinstance(task, str) and task.count(":") == 1:
        task = load_own(task)
    if not callable(task):
        raise TypeError(
            f'task= must be a factory such as the class itself, or its name "module:Class", got {task!r}'
        )
    if "num_rows" in _parameters(task):
        return _checked_batch(task(num_rows), task)
    return EachRow(task, num_rows)


def _checked_batch(batch: object, factory: Builder) -> TaskBatch:
    """What a factory with a parameter ``num_rows`` returned; ArgumentError unless it is a TaskBatch."""
    missing = [name for name in _OF_BATCHES if not callable(getattr(batch, name, None))]
    if missing:
        raise ArgumentError(
            f"task factory {factory!r} has a parameter num_rows and returned {batch!r:.80}, which has no "
            f"method {', '.join(missing)}; return a cola_envs.TaskBatch of all rows, or leave num_rows out "
            "and return the task of one row"
        )
    check_stop("task.stop", getattr(batch, "stop", None))
    return cast("TaskBatch", batch)


def load(reference: str | Builder, argument: str = "builder") -> Builder:
    """Import the object named ``"module:name"``; return anything other than a string unchanged.

    Args:
        reference: the name.
        argument: the argument that held it, for the error message.

    Raises:
        ImportError: for another form, or if the module or the name in it does not exist.
    """
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    if not module or not name or module.startswith("."):
        raise ImportError(f"{argument}={reference!r} must be 'module:name' of something that can be imported")
    try:
        builder: Builder = getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ImportError(f"{argument}={reference!r}: {error}") from error
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{argument}={reference!r}: {error}; it must be in the working directory or installed"
        ) from error
    return builder


def load_own(reference: str) -> Builder:
    """:func:`load` of a user's factory, the argument ``task``."""
    return load(reference, "task")


class _UnknownRenderMode(ArgumentError, UnsupportedMode):
    """An unsupported render mode. Also a TypeError, after which SB3 makes the environment without one."""


def check_render_mode(mode: str | None, modes: Sequence[str] = RENDER_MODES) -> str | None:
    if mode is not None and mode not in modes:
        raise _UnknownRenderMode(f"render_mode must be None or {' or '.join(map(repr, modes))}, got {mode!r}")
    return mode


def repeatable(settings: Settings) -> Settings:
    """``settings`` with iterators and files of worked examples read, so that they can be used again.

    Raises:
        FileNotFoundError, TypeError, ValueError: for worked examples that cannot be read
            (:func:`~cola_envs.shots.read_shots`).
    """
    read = {key: list(value) if isinstance(value, Iterator) else value for key, value in settings.items()}
    shots = read.get("shots", 0)
    if isinstance(shots, np.integer):
        read["shots"] = int(shots)
    elif not isinstance(shots, int):
        read["shots"] = as_lists(read_shots(read["shots"]))
    return read


class LoadedSpec(EnvSpec):
    """A spec with a loaded Backbone as its ``model``, whose JSON names the model as it was passed.

    Attributes:
        passed: ``model`` and ``tokenizer`` as they were passed.
    """

    passed: Mapping[str, object] = MappingProxyType({})

    def to_json(self) -> str:
        """The spec as JSON, which loads the model again.

        Raises:
            TypeError, ValueError: for a model or tokenizer that was passed as an object, or another argument
                that JSON does not hold.
        """
        for name, value in self.passed.items():
            if not isinstance(value, str):
                raise TypeError(
                    f"{name} was passed as a {type(value).__name__}, which JSON does not hold: pass its path "
                    "or its id on the hub"
                )
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.init}
        plain = {key: value for key, value in self.kwargs.items() if key not in ("model", "tokenizer")}
        return EnvSpec(**(values | {"kwargs": plain | dict(self.passed)})).to_json()


def resolved_spec(spec: EnvSpec | None, episodes: Episodes, settings: Settings) -> EnvSpec | None:
    """``spec`` with the loaded Backbone as its ``model``.

    Gymnasium copies a spec's arguments and makes further environments from them, which must neither copy
    nor load the weights again.
    """
    if spec is None:
        return None
    kwargs = {**spec.kwargs, **{key: settings[key] for key in spec.kwargs if key in settings}}
    passed = {key: settings[key] for key in ("model", "tokenizer") if settings.get(key) is not None}
    kwargs.pop("tokenizer", None)
    if not passed:  # the bundled model is loaded once and cached
        return dataclasses.replace(spec, kwargs=kwargs)
    kwargs["model"] = episodes.backbone
    values = {each.name: getattr(spec, each.name) for each in dataclasses.fields(spec) if each.init}
    loaded = LoadedSpec(**(values | {"kwargs": kwargs}))
    loaded.passed = {key: str(value) if isinstance(value, Path) else value for key, value in passed.items()}
    return loaded


def spec_of(env_id: str) -> EnvSpec:
    """The registration of an environment id; ``module:ID`` imports the module first, as ``gym.make`` does.

    Raises:
        gymnasium.error.NameNotFound: for an id that is not registered.
        ModuleNotFoundError: for a module that cannot be imported.
    """
    module, sign, name = env_id.rpartition(":")
    if sign:
        importlib.import_module(module)
    try:
        return gym.spec(name)
    except gym.error.NameNotFound as error:
        raise gym.error.NameNotFound(
            f"{error} `cola tasks` lists the ids; one that a module of yours registers is named with it, "
            f"my_module:{name}"
        ) from error


def twin_id(spec_id: str) -> str:
    """The token-level id of a latent one: ``CoLA-Math500-v0`` -> ``CoLA-Math500-Token-v0``."""
    name, separator, version = spec_id.rpartition("-v")
    return f"{name}-Token-v{version}" if separator else spec_id


def _parameters(builder: Builder) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(builder).parameters
    except ValueError:  # some built-in callables have no signature
        return {}


def _unknown(name: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    own = [p for p in inspect.signature(build_episodes).parameters if p not in ("num_rows", "task_kwargs")]
    shells = ["render_mode", "max_episode_steps", *_OF_VECTORS]
    task_names = [key for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD and key != "num_rows"]
    if name in _OF_VECTORS:
        return f"{name} is no argument of a single environment: use {_OF_VECTORS[name]}"
    close = difflib.get_close_matches(name, own + shells + task_names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if close and close[0] in _OF_VECTORS:
        hint = f" Did you mean {close[0]!r} of {_OF_VECTORS[close[0]]}?"
    takes = ", ".join(key for key in task_names if key != "split") or "no arguments of its own"
    return f"unknown keyword argument {name!r}.{hint} This task takes: {takes}"


def _is_backbone(model: object) -> TypeGuard[Backbone]:
    return hasattr(model, "session") and hasattr(model, "action_space")


def _check_place(backbone: Backbone, device: str | None, dtype: str) -> None:
    """Raise ValueError where a Backbone's model, if it has one, is on another device or of another type."""
    model = getattr(backbone, "model", None)
    here = str(getattr(model, "device", ""))
    if device is not None and here != str(device) and here.partition(":")[0] != str(device):
        where = f", which is on {here}" if here else ""
        raise ValueError(
            f"device={device!r} cannot be changed for a Backbone{where}: move its model, or pass a path as "
            "model="
        )
    kept = str(getattr(model, "dtype", dtype)).removeprefix("torch.")
    if dtype not in ("float32", kept):
        raise ValueError(
            f"dtype={dtype!r} cannot be changed for a Backbone, which computes in {kept}: leave it out"
        )


def resolve(
    model: object = None,
    *,
    level: Level,
    tokenizer: object = None,
    device: str | None = None,
    dtype: str = "float32",
) -> Backbone:
    """The :class:`Backbone` for the argument ``model=``, at the level that the environment's id needs.

    A Backbone is checked and returned; anything else goes to
    :func:`cola_agents.decoding.loading.make_backbone`, the only import of torch in :mod:`cola_envs`, done
    when this is called.

    Raises:
        ValueError: for a Backbone of the other level, or one with ``tokenizer=``, another ``device=`` or
            another ``dtype=``.
    """
    if _is_backbone(model):
        backbone_level = getattr(model, "level", level)
        if backbone_level != level:
            other = "the -Token-v0 id" if backbone_level == "token" else "the id without -Token"
            raise ValueError(
                f"this id acts at {level} level and the backbone passed as model= at {backbone_level} level; "
                f"use {other}, or another backbone"
            )
        if tokenizer is not None and tokenizer is not model.tokenizer:
            raise ValueError("tokenizer= cannot be changed for a Backbone, which has its own: leave it out")
        _check_place(model, device, dtype)
        return model
    from cola_agents.decoding.loading import make_backbone

    return make_backbone(model, level=level, tokenizer=tokenizer, device=device, dtype=dtype)
