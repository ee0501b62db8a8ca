"""Make backbones of the bundled models, folders, hub ids and loaded models."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.model.base_reference import saved_parts
from cola_agents.model.families import check_family
from cola_agents.model.loading import ADAPTER, ADAPTERS, load_config, load_model, load_tokenizer
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.official import is_official
from cola_agents.model.reach import reachable
from cola_agents.model.shards import float_type
from cola_agents.model.text import PlainTokenizer
from cola_envs.backbone import Level

BUNDLED = Path(__file__).parents[1] / "bundled"


def load_bundled(name: str = "cola") -> PreTrainedModel:
    """Load a model that comes with the package, in eval mode on the CPU in float32.

    Args:
        name: ``"cola"``, the latent-action model, or ``"base"``, the language model that is the frozen base
            inside it: where the token arm of a comparison starts.

    Returns:
        a new :class:`~cola_agents.model.modeling.CoLAForCausalLM` or ``LlamaForCausalLM``.

    Raises:
        ValueError: for another name.
    """
    if name not in ("cola", "base"):
        raise ValueError(f"bundled model {name!r} does not exist; there are 'cola' and 'base'")
    return _load(str(BUNDLED / name), dtype="float32")


def _load(path: str, dtype: str) -> PreTrainedModel:
    config = load_config(path)
    if (Path(path) / ADAPTERS / ADAPTER).is_file():
        warnings.warn(
            f"{path} holds adapters of its base in {ADAPTERS}/, for which its policy was cloned, and it is "
            "loaded without them: merge them with cola_agents.train.adapters.load_adapters(model, folder), "
            "and give the model, or a folder that it is saved to",
            UserWarning,
            stacklevel=4,
        )
    if is_official(config):
        return CoLAForCausalLM.from_official(path, dtype=dtype)
    check_family(config.get_text_config())
    cls = CoLAForCausalLM if config.model_type == "cola" else AutoModelForCausalLM
    progress = _progress_bar(False)
    try:
        return load_model(cls, path, config=config, dtype=getattr(torch, dtype)).eval()
    finally:
        _progress_bar(progress)


def _progress_bar(enabled: bool) -> bool:
    """Switch transformers' progress bar on or off; returns whether it was on."""
    from transformers.utils import logging

    before = bool(logging.is_progress_bar_enabled())
    (logging.enable_progress_bar if enabled else logging.disable_progress_bar)()
    return before


@functools.lru_cache(maxsize=4)
def _bundled_backbone(level: Level, device: str | None, dtype: str) -> LatentBackbone | TokenBackbone:
    path = str(BUNDLED / ("cola" if level == "latent" else "base"))
    model = _load(path, dtype).requires_grad_(False)
    if device:
        model = model.to(device)
    return _KINDS[level](model, load_tokenizer(path))


def make_backbone(
    model: object = None,
    *,
    level: Level,
    tokenizer: PreTrainedTokenizerBase | PlainTokenizer | str | Path | None = None,
    device: str | None = None,
    dtype: str = "float32",
) -> LatentBackbone | TokenBackbone:
    """Make a backbone of a user's ``model=``.

    Args:
        model: None for the bundled one (shared between callers, frozen), a path or hub id, or a model
            object, which keeps its dtype, and its device unless ``device`` is given.
        level: ``"latent"`` or ``"token"``.
        tokenizer: a tokenizer, a path or hub id; None for the model's own, by its ``name_or_path``.
        device: the model's device; None for the CPU.
        dtype: the type of a model that is loaded by path.

    Raises:
        FileNotFoundError: for a path without a model, or a hub id that cannot be read.
        ForeignCodeError: for a model or tokenizer that asks to run code of its own.
        ValueError: if there is no tokenizer, or it does not fit the model.
        TypeError: for a model that has no actions of this level, and what is no tokenizer.
    """
    dtype = str(float_type(dtype)).removeprefix("torch.")
    check_device(device)
    named = tokenizer is None or isinstance(tokenizer, (str, Path, PlainTokenizer))
    if not named and not hasattr(tokenizer, "get_vocab"):
        raise TypeError(
            "tokenizer= takes a tokenizer of transformers, its folder or hub id, or None for the model's "
            f"own; got {tokenizer!r:.80}"
        )
    if dtype == "float16" and torch.device(device or "cpu").type == "cpu":
        text = "float16 is slow on a CPU: use float32, or bfloat16 for half the memory"
        warnings.warn(text, UserWarning, stacklevel=2)
    if model is None and tokenizer is None:
        return _bundled_backbone(level, device, dtype)
    if model is None:
        model = str(BUNDLED / ("cola" if level == "latent" else "base"))
    if isinstance(model, (str, Path)):
        path = Path(model)
        if (path.is_absolute() or path.exists()) and not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} holds no model: there is no config.json in it")
        if isinstance(tokenizer, (str, Path)):  # before the weights, which take longer
            tokenizer = _tokenizer_at(tokenizer)
        model = _load(reachable(model), dtype)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"model= takes None, a path or hub id, a CoLAForCausalLM, a causal LM or a Backbone; "
            f"got {type(model).__name__}"
        )
    loaded: PreTrainedModel = model.to(device) if device else model
    if tokenizer is None:
        tokenizer = _own_tokenizer(loaded)
    elif isinstance(tokenizer, (str, Path)):
        tokenizer = _tokenizer_at(tokenizer)
    return _KINDS[level](loaded, tokenizer)


def _own_tokenizer(model: PreTrainedModel) -> PlainTokenizer | PreTrainedTokenizerBase:
    """The tokenizer beside a model; of latent parts without one, that beside their base.

    Raises:
        ValueError: where there is none.
    """
    place = model.name_or_path
    if not place:
        raise ValueError(
            "this model does not name its tokenizer (its name_or_path is empty): pass tokenizer="
        )
    try:
        return _tokenizer_at(place)
    except ValueError:
        parts = saved_parts(place) if isinstance(model, CoLAForCausalLM) else None
        if parts is None:
            raise
        return _tokenizer_at(parts.base.folder())


def _tokenizer_at(place: str | Path) -> PlainTokenizer | PreTrainedTokenizerBase:
    try:
        return load_tokenizer(reachable(place, "tokenizer"))
    except FileNotFoundError as error:
        raise ValueError(f"no tokenizer found at {str(place)!r}: pass tokenizer=") from error


def check_device(device: str | None) -> None:
    """Raise ValueError for a device that torch does not know or does not have, or that holds no numbers."""
    if device is None:
        return
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("tensors there have shapes and no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        kind = "" if accelerator is None else accelerator.type
        there = [f"{kind}:{index}" for index in range(torch.accelerator.device_count())] if kind else []
        usable = ", ".join(["cpu", *there])
        why = str(error).partition("\n")[0].partition(". ")[0]  # torch lists all of its operators behind it
        raise ValueError(f"device {device!r} cannot be used here: {why}; use one of {usable}") from error


_KINDS: dict[Level, type[LatentBackbone] | type[TokenBackbone]] = {
    "latent": LatentBackbone,
    "token": TokenBackbone,
}
