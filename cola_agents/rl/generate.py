"""Record episodes for offline learning: n episodes of each problem, with actions and rewards.

A file holds an episode a line, as JSON. It is not a Minari data set: Minari stores the observations of every
step, here a hidden state for each token, which can be recomputed from ids and model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from cola_agents.common.arguments import environment_arguments, name_of_task
from cola_agents.common.files import one_writer
from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.model.sampling import Drawing, distribution
from cola_agents.rl.collecting import AnyPolicy, InitialPolicy, collect
from cola_agents.rl.recording import (
    KIND,
    REPLIES,
    Recording,
    check_begun,
    check_episode,
    check_header,
    check_path,
)
from cola_agents.rl.rollout import Episode, Rollout, side_by_side
from cola_agents.rl.rows import make_rows
from cola_envs import jsonl
from cola_envs.build import repeatable
from cola_envs.checks import check_count, check_number
from cola_envs.episodes import Episodes
from cola_envs.seeds import HIGHEST_SEED, derived_seed

#: Fields of ``info`` that are recorded.
INFO = (
    "success",
    "text",
    "unique_id",
    "question",
    "task_type",
    "subject",
    "level",
    "kind",
    "answer",
    "prompt",
    "error",
)


@dataclass(frozen=True)
class Recorded:
    """Episodes read from a file.

    Attributes:
        about: the file's first line: task, action level, the model's fingerprint, and settings.
        episodes: a dict each: ``ids``, ``positions`` (of the actions), ``actions``, ``log_probs``,
            ``rewards`` (of each action), ``terminated``, ``seed``, ``problem_seed``, ``info``, ``replies``:
            ranges of tokens that a task wrote; where there are none, it is left out.
    """

    about: dict[str, Any]
    episodes: list[dict[str, Any]]

    @property
    def num_problems(self) -> int:
        """The number of different prompts, which is that of problems."""
        return len({tuple(one["ids"][: next(iter(one["positions"]), 0) + 1]) for one in self.episodes})

    @property
    def rewards(self) -> np.ndarray:
        """The sum of rewards of each episode, [N]."""
        return np.array([sum(one["rewards"]) for one in self.episodes])

    def rollout(self, backbone: LatentBackbone | TokenBackbone, *, batch_size: int = 64) -> Rollout:
        """The episodes as a :class:`~cola_agents.rl.rollout.Rollout`, with recomputed hidden states.

        Raises:
            ValueError: for a model other than the one they were recorded with.
        """
        self.check_model(backbone)
        device = next(backbone.model.parameters()).device
        hidden: list[Tensor] = []
        for at in range(0, len(self.episodes), batch_size):
            rows = [torch.tensor(episode["ids"]) for episode in self.episodes[at : at + batch_size]]
            # Padding on the right does not affect a causal model.
            ids = pad_sequence(rows, batch_first=True).to(device)
            with torch.no_grad(), fitting_threads(backbone):
                states = backbone.base(input_ids=ids, use_cache=False).last_hidden_state
            hidden += [state[: len(row)] for state, row in zip(states, rows, strict=True)]
        seeds, problems = (
            np.array([episode[name] for episode in self.episodes]) for name in ("seed", "problem_seed")
        )
        names = [field.name for field in fields(Episode) if field.name != "written"]
        episodes = [Episode(**{name: episode[name] for name in names}) for episode in self.episodes]
        return side_by_side(episodes, seeds, problems, hidden)

    def check_model(self, backbone: LatentBackbone | TokenBackbone) -> None:
        """Raise ValueError for a model other than the one that the episodes were recorded with."""
        if self.about["fingerprint"] != backbone.fingerprint:
            raise ValueError(
                f"these episodes were recorded with a model of fingerprint {self.about['fingerprint'][:12]}, "
                f"and this one has {backbone.fingerprint[:12]}: its states are not those that were acted in. "
                "Pass the model that recorded them, or the agent whose own tokens were trained"
            )


def generate(
    task: str,
    path: str | Path,
    *,
    problems: int,
    n: int = 16,
    policy: AnyPolicy | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    num_envs: int = 64,
    watch: Callable[[int], None] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    **direct: Any,
) -> dict[str, Any]:
    """Play ``n`` episodes of each of ``problems`` problems and write each as a line of JSON.

    An incomplete file is continued: problems that are whole in it are not played again. The problems of a
    round are on the disk before the next round begins.

    Args:
        task: an environment id.
        path: the file to write, ``.jsonl`` or ``.jsonl.gz``; its first line holds the settings.
        policy: as in :func:`cola_agents.collect`; None for the model's own. The settings name a module by the
            digest of its weights and another callable by its name.
        temperature, top_k, top_p: how actions are drawn, as in :func:`cola_agents.collect`.
        seed: problem i has seed ``seed + i``; each of its episodes draws from its own stream.
        num_envs: rows that play in parallel.
        watch: is called with the number of episodes written so far.
        env_kwargs: further arguments of the environment, such as ``model`` and ``split``.
        direct: arguments of the environment, deprecated: give them in ``env_kwargs``.

    Returns:
        Number of episodes, share of successes, mean reward, the share of problems that some episode solved,
        and, if there were any, the number of episodes that a failing task cut.

    Raises:
        TypeError, ValueError: for an argument that is not allowed, another name, a file of other settings,
            or one with a damaged line before its last, naming the line; the file is unchanged, or not made.
        InUseError: if another process writes the file.
        OSError: if the file cannot be written (a full disk, say); whole problems in it stay whole.
    """
    problems, n, num_envs, seed, drawing = check_tries(
        problems, n, num_envs=num_envs, seed=seed, temperature=temperature, top_k=top_k, top_p=top_p
    )
    if not (policy is None or callable(policy) or hasattr(policy, "attach")):
        raise TypeError(
            f"policy must be None, a policy or a function of a session and rows, got {policy!r:.80}"
        )
    env_kwargs = repeatable(environment_arguments(env_kwargs, direct, "generate"))
    path = Path(path)
    check_path(path)
    settings = first_line(task, n, seed, drawing, env_kwargs)
    check_begun(path, settings, absent=("top_k", "top_p", "env_kwargs_digests"))
    env = make_rows(task, min(num_envs, problems * n), **env_kwargs)
    with closing(env), one_writer(path, "file"):
        episodes: Episodes = env.episodes
        about = {
            **settings,
            "actions": episodes.backbone.level,
            "num_actions": int(episodes.action_space.n),
            "fingerprint": episodes.backbone.fingerprint,
            "policy": policy_name(policy),
            "prompt_format": episodes.format.name,
        }
        recording = Recording(path, about, n)
        policy = policy or InitialPolicy()
        per_round = max(1, episodes.num_rows // n)
        backbone: Any = episodes.backbone
        with fitting_threads(backbone):
            for first in range(recording.done, problems, per_round):
                count = min(per_round, problems - first)
                recording.append(list(_played(episodes, policy, seed + first, count, n, drawing)))
                if watch:
                    watch((first + count) * n)
    return recording.figures()


def first_line(
    task: str, n: int, seed: int, drawing: Drawing, env_kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """What a file's first line says of the settings without a model: all but those that the model decides.

    Args:
        drawing: the sampling options as far as they are known.
    """
    drawn: dict[str, Any] = {name: drawing[name] for name in ("temperature",) if name in drawing}
    if drawing.get("top_k") is not None or drawing.get("top_p", 1.0) < 1:
        drawn |= {"top_k": drawing.get("top_k"), "top_p": drawing.get("top_p", 1.0)}
    return {
        "kind": KIND,
        "task": task,
        "n": n,
        **drawn,
        "seed": seed,
        "own_task": name_of_task(env_kwargs.get("task")),
        "env_kwargs": {key: value for key, value in env_kwargs.items() if _plain(value)},
        **_others(env_kwargs),
    }


def check_tries(
    problems: int,
    n: int,
    *,
    num_envs: int = 64,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> tuple[int, int, int, int, Drawing]:
    """The numbers that :func:`generate` takes, checked, as Python's; the last three as sampling options.

    Raises:
        TypeError, ValueError: for one that is not allowed.
    """
    problems, n = check_count("problems", problems), check_count("n", n)
    num_envs, seed = check_count("num_envs", num_envs), check_count("seed", seed, 0, HIGHEST_SEED)
    temperature, top_p = check_number("temperature", temperature, 0.0), check_number("top_p", top_p)
    top_k = None if top_k is None else check_count("top_k", top_k)
    drawing: Drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    distribution(torch.zeros(1), **drawing)
    return problems, n, num_envs, seed, drawing


def _played(
    episodes: Episodes, policy: Any, first: int, count: int, n: int, drawing: Drawing
) -> Iterator[dict[str, Any]]:
    problem_seeds = np.arange(first, first + count).repeat(n)
    seeds = [derived_seed(int(problem), k) for problem in range(first, first + count) for k in range(n)]
    rollout = collect(episodes, policy, seeds=seeds, problem_seeds=problem_seeds.tolist(), **drawing)
    for i in range(len(rollout)):
        at = rollout.mask[i].nonzero().flatten()
        length = int(rollout.lengths[i])
        replies = [] if rollout.written is None else _replies(rollout.written[i, :length], int(at[0]) + 1)
        yield {
            "ids": rollout.ids[i, :length].tolist(),
            "positions": at.tolist(),
            "actions": rollout.actions[i, at].tolist(),
            "log_probs": [round(value, 6) for value in rollout.log_probs[i, at].tolist()],
            "rewards": rollout.rewards[i, at].tolist(),
            **({REPLIES: replies} if replies else {}),
            "terminated": bool(rollout.terminated[i]),
            "seed": int(rollout.seeds[i]),
            "problem_seed": int(rollout.problem_seeds[i]),
            "info": {key: value for key, value in rollout.infos[i].items() if key in INFO and _plain(value)},
        }


def _replies(written: Tensor, start: int) -> list[list[int]]:
    """The ranges of tokens from ``start`` on that no action wrote; ``written`` [T] bool."""
    alien = torch.cat([written.new_ones(1), written[start:], written.new_ones(1)]).logical_not().int()
    turns = alien.diff().nonzero().flatten() + start
    return turns.view(-1, 2).tolist()


def read(*paths: str | Path) -> Recorded:
    """Read episodes that :func:`generate` wrote, from one file or several.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: for a file of another kind, a damaged line, naming it, or files that were recorded with
            different models.
    """
    first, *others = [_read(Path(path)) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        if other.about["fingerprint"] != first.about["fingerprint"]:
            raise ValueError(f"{path} was recorded with another model than {paths[0]}")
        first.episodes.extend(other.episodes)
    return first


def _read(path: Path) -> Recorded:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; `cola generate` makes one")
    about: dict[str, Any] = {}
    episodes = []
    for where, item in jsonl.read(path):
        try:
            if about:
                check_episode(item)
                episodes.append(item)
            else:
                check_header(item)
                about = item
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if not episodes:
        raise ValueError(f"{path} holds no episode")
    return Recorded(about, episodes)


def policy_name(policy: Any) -> str:
    """What identifies a policy in a file: a module's class and digest of weights, or a callable's name."""
    if policy is None:
        return "the model's own"
    if isinstance(policy, nn.Module):
        digest = hashlib.sha256()
        for name, tensor in sorted(policy.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return f"{type(policy).__name__} {digest.hexdigest()}"
    return getattr(policy, "__qualname__", type(policy).__qualname__)


def _others(env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Digests of the settings that a file does not hold as they are, so that a file of others is refused.

    The model and its tokenizer are told by the fingerprint.
    """
    digests = {
        key: hashlib.sha256(json.dumps(value, sort_keys=True, default=_as_data).encode()).hexdigest()[:16]
        for key, value in env_kwargs.items()
        if key not in ("model", "tokenizer") and not _plain(value) and _jsonable(value)
    }
    return {"env_kwargs_digests": digests} if digests else {}


def _jsonable(value: Any) -> bool:
    """Whether a setting is data: paths, arrays, lists and dicts of plain values."""
    if isinstance(value, Mapping):
        return all(_jsonable(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_jsonable(item) for item in value)
    return _plain(value) or isinstance(value, (Path, np.generic, np.ndarray))


def _as_data(value: Any) -> Any:
    """A path as text, and NumPy's numbers as Python's, for a digest."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, type(None))) or (
        isinstance(value, (list, tuple)) and all(_plain(item) for item in value)
    )
