"""From ``gym.make``'s keyword arguments to Episodes: the one builder behind both environments."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeGuard

from gymnasium.envs.registration import EnvSpec
from gymnasium.error import UnsupportedMode

from cola_envs.answers import OnTaskError
from cola_envs.backbone import Backbone, Level
from cola_envs.checks import check_settings
from cola_envs.episodes import Episodes
from cola_envs.task import EachRow, TaskBatch

#: What makes the tasks of an id: one row's :class:`~cola_envs.task.Task`, or the TaskBatch of all.
Builder = Callable[..., Any]
#: What ``gym.make`` was called with; its values are checked where they are read.
Settings = dict[str, Any]
RENDER_MODES = ("ansi", "human", "rgb_array")
#: Of a single environment, whose one episode can be followed.
SINGLE_RENDER_MODES = (*RENDER_MODES, "html")
#: Of a task that has splits and does not name them otherwise (an attribute ``splits`` of its builder).
SPLITS = ("train", "test")


def build_episodes(
    num_rows: int,
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
    device: str | None = None,
    dtype: str = "float32",
    **task_kwargs: Any,
) -> Episodes:
    """Check every argument, build the tasks, then load the model: what is cheap to refuse comes first.

    Args:
        num_rows: how many rows there are.
        builder: ``"module:name"`` or a callable. One with a parameter ``num_rows`` is called once and
            makes a :class:`~cola_envs.task.TaskBatch`; any other is called once a row and makes a
            :class:`~cola_envs.task.Task`.
        actions: ``"latent"`` or ``"token"``: what level of Backbone is needed.
        default_max_tokens: the budget where ``max_tokens`` is None.
        model, tokenizer, device, dtype: see :func:`cola_envs.build.resolve`.
        split: ``"train"``, ``"test"`` or whatever the builder's ``splits`` name; handed to builders that
            know splits.
        task_kwargs: handed to the builder.

    The rest goes to :class:`~cola_envs.episodes.Episodes`.

    Raises:
        TypeError: an unknown keyword, or a value of the wrong type.
        ValueError: a value that is not allowed.
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
    known = splits_of(builder) or SPLITS
    if split not in known:
        raise ValueError(f"split must be {' or '.join(map(repr, known))}, got {split!r}")
    tasks = build_tasks(num_rows, load(builder), split=split, **task_kwargs)
    try:
        backbone = resolve(model, level=actions, tokenizer=tokenizer, device=device, dtype=dtype)
        return Episodes(backbone, tasks, **settings)
    except BaseException:
        tasks.close()
        raise


def build_tasks(num_rows: int, builder: Builder, *, split: str = "train", **kwargs: Any) -> TaskBatch:
    """Call a task builder, once for all rows or once a row, after checking its keywords.

    Raises:
        TypeError: a keyword that neither the environments nor the builder know.
        ValueError: a split other than the first of a task that has no splits.
    """
    parameters = _parameters(builder)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in kwargs:
        if name == "num_rows" or not (open_ended or name in parameters):
            raise TypeError(_unknown(name, parameters))
    if splits_of(builder):
        kwargs["split"] = split
    elif split != SPLITS[0]:
        raise ValueError(f"this task has no splits, so split={split!r} means nothing to it")
    if "num_rows" in parameters:
        batch: TaskBatch = builder(num_rows, **kwargs)
        return batch
    return EachRow(lambda: builder(**kwargs), num_rows)


def splits_of(builder: str | Builder) -> tuple[str, ...]:
    """The splits of a task builder, the one to train on first; none where it takes no ``split=``.

    A builder that has others than ``("train", "test")`` names them in an attribute ``splits``.
    """
    builder = load(builder)
    parameters = _parameters(builder)
    if "split" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return tuple(getattr(builder, "splits", SPLITS))
    return ()


def evaluation_split(builder: str | Builder) -> str:
    """The split to evaluate on where none is named: ``"test"``, or else the last there is."""
    splits = splits_of(builder)
    return "test" if "test" in splits else splits[-1] if splits else SPLITS[0]


def own_task(num_rows: int, *, task: str | Builder | None = None) -> TaskBatch:
    """The tasks of ``CoLA-Text-v0``: your own, one object for each row.

    **Prompt.** What ``reset(rng)`` of the task returns.

    **Actions.** Text. A segment ends at one of the task's ``stop`` strings, at the model's end-of-text token,
    or where the token budget is spent; it is then given to ``step(text)``.

    **Observation.** The text of the :class:`~cola_envs.Turn` that ``step`` returns is appended to the
    context.

    **Reward, episode end, info.** ``reward``, ``done``, ``truncated`` and ``info`` of the Turn.

    **Data.** The task's own. **Versions.** v0: first version.

    Args:
        task: what makes a task: the class itself, any callable without arguments that is called once a
            row, one with a parameter ``num_rows`` that is called once and makes the TaskBatch of all rows,
            or the name of any of these as ``"module:name"``.

    Raises:
        TypeError: without ``task``, or with one that cannot be called.
        ImportError: for a name that is not there.
    """
    if task is None:
        raise TypeError(
            "CoLA-Text needs task=: a factory that is called once a row and returns a cola_envs.Task, "
            'e.g. the class itself: gym.make("CoLA-Text-v0", task=MyTask)'
        )
    if isinstance(task, str) and task.count(":") == 1:
        task = _named(task)
    if not callable(task):
        raise TypeError(
            f'task= must be a factory such as the class itself, or its name "module:Class", got {task!r}'
        )
    return task(num_rows) if "num_rows" in _parameters(task) else EachRow(task, num_rows)


def load(reference: str | Builder) -> Builder:
    """The object that ``"module:name"`` names; anything else is returned as it is."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    builder: Builder = getattr(importlib.import_module(module), name)
    return builder


def _named(reference: str) -> Builder:
    """A user's factory by its name; an ImportError says what is not there."""
    try:
        return load(reference)
    except AttributeError as error:
        raise ImportError(f"task={reference!r}: {error}") from error
    except ModuleNotFoundError as error:
        raise ImportError(
            f"task={reference!r}: {error}; a module is looked for in the working directory and among what is "
            "installed"
        ) from error


class _UnknownRenderMode(UnsupportedMode, TypeError):
    """Gymnasium's error for a render mode, and the one after which SB3 tries again without any."""


def check_render_mode(mode: str | None, modes: Sequence[str] = RENDER_MODES) -> str | None:
    if mode is not None and mode not in modes:
        raise _UnknownRenderMode(f"render_mode must be None or {' or '.join(map(repr, modes))}, got {mode!r}")
    return mode


def repeatable(settings: Settings) -> Settings:
    """``settings`` with iterators read into lists: an environment's spec may be made more than once."""
    return {key: list(value) if isinstance(value, Iterator) else value for key, value in settings.items()}


def resolved_spec(spec: EnvSpec | None, episodes: Episodes, settings: Settings) -> EnvSpec | None:
    """``spec`` with the loaded Backbone in the model's place.

    Gymnasium deep-copies a spec's arguments, and makes further environments from them: weights must be
    neither copied nor loaded again.
    """
    if spec is None:
        return None
    kwargs = {**spec.kwargs, **{key: settings[key] for key in spec.kwargs if key in settings}}
    if kwargs.get("model") is not None or kwargs.pop("tokenizer", None) is not None:
        kwargs["model"] = episodes.backbone  # the bundled one is cached where it is made
        kwargs.pop("tokenizer", None)
    return dataclasses.replace(spec, kwargs=kwargs)


def twin_id(spec_id: str) -> str:
    """The token-level id beside a latent one: ``CoLA-Math500-v0`` -> ``CoLA-Math500-Token-v0``."""
    name, separator, version = spec_id.rpartition("-v")
    return f"{name}-Token-v{version}" if separator else spec_id


def _parameters(builder: Builder) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(builder).parameters
    except ValueError:  # some built-in callables have none to show
        return {}


def _unknown(name: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    own = [p for p in inspect.signature(build_episodes).parameters if p not in ("num_rows", "task_kwargs")]
    shells = ["render_mode", "num_envs", "autoreset_mode", "max_episode_steps"]
    theirs = [key for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD and key != "num_rows"]
    if name in ("num_envs", "autoreset_mode"):
        return f"{name} belongs to many environments at once: use gym.make_vec(id, num_envs=...)"
    close = difflib.get_close_matches(name, own + shells + theirs, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    takes = ", ".join(key for key in theirs if key != "split") or "none of its own"
    return f"unknown keyword argument {name!r}.{meant} This task takes: {takes}"


def _is_backbone(model: object) -> TypeGuard[Backbone]:
    return hasattr(model, "session") and hasattr(model, "action_space")


def resolve(
    model: object = None,
    *,
    level: Level,
    tokenizer: object = None,
    device: str | None = None,
    dtype: str = "float32",
) -> Backbone:
    """Turn whatever a user passes as ``model=`` into a :class:`Backbone` of the level an id needs.

    This is the only place where :mod:`cola_envs` reaches for torch, and it does so when called. A
    Backbone is checked and returned as it is; everything else is handed to
    :func:`cola_agents.decoding.loading.make_backbone`.
    """
    if _is_backbone(model):
        found = getattr(model, "level", level)
        if found != level:
            other = "the -Token-v0 id" if found == "token" else "the id without -Token"
            raise ValueError(
                f"this id acts at {level} level and the backbone passed as model= at {found} level; "
                f"use {other}, or another backbone"
            )
        if tokenizer is not None and tokenizer is not model.tokenizer:
            raise ValueError("tokenizer= cannot be changed for a Backbone: it already holds its own")
        return model
    from cola_agents.decoding.loading import make_backbone

    return make_backbone(model, level=level, tokenizer=tokenizer, device=device, dtype=dtype)
