"""Options of several commands: the model's device and number type, and the form of its prompts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cola_envs.jsonl import JsonObject

#: Options that are keyword arguments of ``gym.make`` and of ``Agent``, and that ``--env`` takes too.
_LOADING = ("device", "dtype")
_PROMPTS = ("prompt_format", "system", "shots")
#: Of ``--model`` in commands that also take a saved agent.
MODEL_HELP = "folder or hub id; by default the bundled model; beside --agent, where its model was moved to"


def add_model_options(parser: argparse.ArgumentParser, *, prompts: bool = True, agents: bool = True) -> None:
    """Add ``--device`` and ``--dtype``, and with ``prompts`` the options of the prompt format.

    Args:
        agents: whether the command takes saved agents, whose own device is the default, and whose type stays.
    """
    usual = "the saved agent's, or " if agents else ""
    parser.add_argument("--device", help=f"cpu, cuda, cuda:1, mps, ...; by default {usual}cpu")
    parser.add_argument(
        "--dtype",
        help="type of the weights: float32, bfloat16 or float16; by default float32"
        + (", and a saved agent keeps its own" if agents else ""),
    )
    if not prompts:
        return
    parser.add_argument(
        "--prompt-format",
        choices=("plain", "chat"),
        help="chat: the task's texts are turns in the model's chat template; by default chat if the "
        "template ends a turn with one of the model's end-of-text tokens, else plain",
    )
    parser.add_argument("--system", metavar="TEXT", help="system message, in front of every prompt")
    parser.add_argument(
        "--shots",
        type=_shots,
        metavar="N|FILE",
        help="worked examples in front of every prompt: how many of the task's own train split, or a JSONL "
        "file of objects with the keys prompt and answer (a game: messages)",
    )


def _shots(text: str) -> int | str:
    """The ``type`` of ``--shots``."""
    if text.isdecimal():
        return int(text)
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a whole number from 0 on nor a JSONL file of worked examples"
        )
    return text


def add_prompt_settings(arguments: argparse.Namespace, env_kwargs: JsonObject) -> None:
    """Put the options of the prompt format into the environment's arguments.

    Raises:
        ValueError: for one that ``--env`` gives too.
    """
    add_given(arguments, env_kwargs, *_PROMPTS)


def pop_loading(arguments: argparse.Namespace, env_kwargs: JsonObject) -> JsonObject:
    """Device and dtype where they are given, by their options or by ``--env``, which loses them.

    Raises:
        ValueError: for one that is given both ways.
    """
    given: JsonObject = {}
    for name in _LOADING:
        if getattr(arguments, name) is not None:
            _check_once(name, env_kwargs)
            given[name] = getattr(arguments, name)
        elif name in env_kwargs:
            given[name] = env_kwargs.pop(name)
    return given


def add_given(arguments: argparse.Namespace, env_kwargs: JsonObject, *names: str) -> None:
    """Put options into the environment's arguments, where they are given.

    Raises:
        ValueError: for one that ``--env`` gives too.
    """
    for name in names:
        if getattr(arguments, name) is not None:
            _check_once(name, env_kwargs)
            env_kwargs[name] = getattr(arguments, name)


def _check_once(name: str, env_kwargs: JsonObject) -> None:
    if name in env_kwargs:
        raise ValueError(f"--{name.replace('_', '-')} and --env {name}=... give it twice: leave one out")
