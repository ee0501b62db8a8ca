"""The common part of Q-functions and outcome models: a decoder copied from a model, and their files.

Shapes: B rows, N episodes, T tokens, D hidden.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cola_agents.common.files import whole_folder
from cola_agents.common.sealed import DamagedError
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.contract import PolicySession
from cola_agents.decoding.session import last_states
from cola_agents.model.shards import write_tensors
from cola_agents.rl.rollout import Rollout
from cola_agents.search.playout import Values
from cola_envs import jsonl
from cola_envs.jsonl import JsonObject

#: The types of the attributes in a description.
_KINDS_OF_FIELDS = {"reads": (str,), "fingerprint": (str,), "gamma": (int, float), "num_actions": (int,)}
#: The decoder that is copied: the policy's stack, or the language model.
Kind = Literal["policy", "model"]


class Trunk(nn.Module):
    """A decoder over the base LM's hidden states, or over tokens as a language model of its own.

    Args:
        trunk: a Hugging Face decoder.
        reads: its input: ``"hidden"`` or ``"ids"``.
        fingerprint: the fingerprint of the backbone that it was copied from.
    """

    def __init__(self, trunk: Any, reads: Literal["hidden", "ids"], fingerprint: str) -> None:
        super().__init__()
        self.trunk, self.reads, self.fingerprint = trunk, reads, fingerprint

    def states(self, rollout: Rollout) -> Tensor:
        """The decoder's states at all tokens of whole episodes, [N, T, D]."""
        inputs = {"inputs_embeds": rollout.hidden} if self.reads == "hidden" else {"input_ids": rollout.ids}
        states: Tensor = self.trunk(**inputs, use_cache=False).last_hidden_state
        return states

    def follow(self, session: PolicySession) -> Values:
        """A function from rows of a session to the decoder's states at their last tokens, [B, D]."""
        if self.reads == "hidden":
            return session.follow(self.trunk).features
        return last_states(self.trunk, session)

    def save_files(self, path: str | Path, name: str, fields: Sequence[str]) -> None:
        """Save ``name.safetensors`` and ``name.json``, with attributes, to a folder that is absent or empty.

        Raises:
            FileExistsError: if the folder is not empty.
        """
        with whole_folder(Path(path)) as folder:
            state = {key: tensor.contiguous() for key, tensor in self.state_dict().items()}
            write_tensors(state, folder / f"{name}.safetensors")
            description = {field: getattr(self, field) for field in fields}
            (folder / f"{name}.json").write_text(json.dumps(description, indent=2))

    def load_weights(self, path: str | Path, name: str) -> None:
        """Load the weights that :meth:`save_files` wrote.

        Raises:
            DamagedError: a ValueError, for a file that is missing, cannot be read or is not of this model.
        """
        file = Path(path) / f"{name}.safetensors"
        if not file.is_file():
            raise DamagedError(f"{file} is missing: copy the folder again, or train it again")
        try:
            self.load_state_dict(load_file(file))
        except (SafetensorError, RuntimeError) as error:  # what load_state_dict raises for names and shapes
            raise DamagedError(
                f"{file} is damaged, or not of this model: {error}; copy the folder again, or train it again"
            ) from error


def copied(
    backbone: LatentBackbone | TokenBackbone, kind: Kind | None
) -> tuple[nn.Module, Literal["hidden", "ids"]]:
    """A trainable copy of a model's decoder, and what it reads.

    Args:
        kind: ``"policy"``: the cloned policy's stack, on the frozen base's hidden states, cheap to train and
            to run; ``"model"``: the language model; None for the policy's stack where there is one.

    Raises:
        ValueError: for a policy's stack at token level, where there is none.
    """
    policy, _ = backbone.initial_policy()
    kind = kind or ("model" if policy is None else "policy")
    if kind == "policy" and policy is None:
        raise ValueError("at token level the policy is the language model itself: trunk must be 'model'")
    original: Any = policy if kind == "policy" else backbone.base
    return copy.deepcopy(original).requires_grad_(True), "hidden" if kind == "policy" else "ids"


def saved_description(path: str | Path, name: str, what: str, fields: Sequence[str]) -> JsonObject:
    """The attributes in the ``name.json`` of a folder, for any model.

    Args:
        what: as in :func:`read_description`.

    Raises:
        FileNotFoundError: where the folder holds none.
        DamagedError: a ValueError, for a file that :meth:`Trunk.save_files` did not write.
    """
    file = Path(path) / f"{name}.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path} holds no {what}: there is no {name}.json in it")
    try:
        description = jsonl.read_object(file, *fields)
    except ValueError as error:
        raise DamagedError(f"{file} is damaged: {error}") from error
    for field, kinds in _KINDS_OF_FIELDS.items():
        if field in description and (type(description[field]) not in kinds):
            raise DamagedError(f"{file} is damaged: {field} is {description[field]!r:.80}")
    if description["reads"] not in ("hidden", "ids"):
        raise DamagedError(f"{file} is damaged: reads is {description['reads']!r:.80}, not 'hidden' or 'ids'")
    return description


def read_description(
    path: str | Path, name: str, what: str, fields: Sequence[str], backbone: LatentBackbone | TokenBackbone
) -> JsonObject:
    """The attributes in the ``name.json`` of a folder.

    Args:
        what: the kind of model, for errors: ``"Q-function"``.

    Raises:
        FileNotFoundError: where the folder holds none.
        DamagedError: a ValueError, for a file that :meth:`Trunk.save_files` did not write.
        ValueError: for one of another model than ``backbone``'s.
    """
    description = saved_description(path, name, what, fields)
    actions = int(backbone.action_space.n)
    if description.get("num_actions", actions) != actions:
        raise ValueError(f"{path} has {description['num_actions']} actions and this model has {actions}")
    if description["fingerprint"] != backbone.fingerprint:
        raise ValueError(
            f"{path} was trained over a model with fingerprint {description['fingerprint'][:12]}, and this "
            f"one has {backbone.fingerprint[:12]}"
        )
    return description
