"""Load the authors' checkpoint format into :class:`~cola_agents.model.modeling.CoLAForCausalLM`.

An official checkpoint is a Llama ``config.json`` with five more fields, and safetensors files with other
names of tensors. A tensor that is missing, unexpected, in two files, truncated, or of a shape that
contradicts the configuration is an error that names it. Weights are memory-mapped: there is one copy in
memory, and unused tensors are not loaded.

Source: CoLA's published code, whose ``IntentionForCausalLM`` wrote these files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from transformers import LlamaConfig, PretrainedConfig, PreTrainedModel

from cola_agents.model.base_reference import REFERENCE
from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.loading import OFFICIAL, ONE_AT_A_TIME, load_generation_config
from cola_agents.model.reach import FILES
from cola_agents.model.shards import (
    DTYPES,
    Stored,
    find_tensors,
    float_type,
    missing_shards,
    read_tensors,
    some,
)
from cola_envs import jsonl

Model = TypeVar("Model", bound=PreTrainedModel)
#: A device, ``"auto"``, or None for the CPU.
DeviceMap = str | int | torch.device | None

#: Pairs of prefixes of tensors' names: official, ours. The codebook is transposed: a code's vector is a
#: column of the official weight and a row of ours.
NAMES = (
    ("model.embed_tokens.", "base.embed_tokens."),
    ("model.layers.", "base.layers."),
    ("model.norm.", "base.norm."),
    ("lm_head.", "lm_head."),
    ("model.action_layers.", "inverse_trunk.layers."),
    ("model.action_norm.", "inverse_trunk.norm."),
    ("model.action_head.", "inverse_head."),
    ("model.action_code_book.", "codebook."),
    ("model.action_merge_layers.", "merge."),
    ("model.policy_layers.", "policy_trunk.layers."),
    ("model.policy_norm.", "policy_trunk.norm."),
    ("model.policy_head.", "policy_head."),
)
CODEBOOK = "model.action_code_book.weight"

#: Official field -> our field.
SIZES = {
    "num_code": "num_codes",
    "num_action_layer": "num_inverse_layers",
    "num_dyna_layer": "num_merge_layers",
    "num_policy_layer": "num_policy_layers",
}
VERSIONS = (0, 1, 2)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


def from_official(
    kind: type[Model],
    source: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device_map: DeviceMap = None,
) -> Model:
    """Load an official checkpoint, in eval mode.

    On a CPU and without a change of type the weights *are* the files' pages: do not overwrite the files
    while the model lives. Otherwise tensors are moved one at a time.

    Args:
        kind: the class of the model, :class:`~cola_agents.model.modeling.CoLAForCausalLM`.
        source: a folder, or a hub id (of which only JSON, tokenizer and safetensors files are fetched).
        dtype: of the weights; None for that of the files (the widest of several). Rotary frequencies are
            always float32.
        device_map: None for the CPU, a device such as ``"cuda:0"``, or ``"auto"``, which distributes the
            model over all devices and needs ``accelerate``.

    Raises:
        FileNotFoundError: without ``config.json`` or weights, or for an unknown hub id.
        ValueError: for an unsupported configuration, for weights that do not match it exactly, and for
            pickled weights.

    Versions 1 and 2 are the same model. Version 0 has no inverse dynamics: only
    :meth:`~cola_agents.model.modeling.CoLAForCausalLM.infer` is unavailable, and raises.
    """
    folder = local_folder(source)
    config = read_config(folder)
    with torch.device("meta"), ONE_AT_A_TIME:
        model: Model = kind(config)
    stored = find_tensors(folder)
    names = _matched(model, stored, folder)
    dtype = _resolve(dtype, stored)
    device_of, finish = _placement(model, device_map, dtype)
    state: dict[str, Tensor] = {}
    for name, tensor in read_tensors(stored, names, dtype, device_of):
        state[names[name]] = tensor.T.contiguous() if name == CODEBOOK else tensor
    if "lm_head.weight" not in state:
        tied = state["base.embed_tokens.weight"]
        state["lm_head.weight"] = tied.to(device_of("lm_head.weight"), copy=True)
    elif config.text_config.tie_word_embeddings and not torch.equal(
        state["lm_head.weight"].cpu(), state["base.embed_tokens.weight"].cpu()
    ):
        raise ValueError(
            f"{folder / 'config.json'} ties lm_head.weight to model.embed_tokens.weight, but "
            f"{stored['lm_head.weight'].file.name} holds another lm_head.weight"
        )
    model.load_state_dict(state, assign=True)
    # No file holds the rotary tables: they are computed from the configuration, in float32.
    for name, module in list(model.named_modules()):
        if hasattr(module, "inv_freq"):
            parent, _, child = name.rpartition(".")
            with torch.device(device_of(name)):
                setattr(model.get_submodule(parent), child, type(module)(module.config))
    unset = [n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]
    if unset:
        raise RuntimeError(f"{some(unset)} got no values although all weights were found")
    model.config.name_or_path = model.name_or_path = str(folder)
    if (folder / "generation_config.json").is_file():
        # Only token ids: the caller decides how codes are sampled.
        official = load_generation_config(folder)
        for field in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(model.generation_config, field, getattr(official, field))
    model.eval()
    return finish(model)


def is_official(config: PretrainedConfig) -> bool:
    """Whether a loaded configuration belongs to an official checkpoint, not to a plain Llama."""
    return hasattr(config, OFFICIAL)


def read_config(folder: Path) -> CoLAConfig:
    """Convert the official ``config.json`` of a folder to our configuration.

    Raises:
        FileNotFoundError: without one.
        ValueError: for an unsupported one, naming the field.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no model: there is no config.json in it")
    fields = jsonl.read_object(path)
    kind = fields.pop("model_type", None)
    if kind == CoLAConfig.model_type and (folder / REFERENCE).is_file():
        raise ValueError(
            f"{folder} is in our own format and holds latent parts beside a reference to their base: "
            f"`cola convert {folder} TARGET --whole` writes the base's weights too, and --base FOLDER says "
            "where the base is now; CoLAForCausalLM.from_pretrained loads it"
        )
    if kind == CoLAConfig.model_type:
        raise ValueError(f"{folder} is in our own format: load it with CoLAForCausalLM.from_pretrained")
    if kind != "llama":
        raise ValueError(f"{path}: model_type is {kind!r}; official checkpoints have 'llama'")
    version = fields.pop("v", None)
    if version not in VERSIONS or isinstance(version, bool):
        problem = "has no field 'v'" if version is None else f"has v={version!r}"
        raise ValueError(
            f"{path} {problem}; 0, 1 and 2 are supported (1 is that of the released model). The official "
            "code takes anything else for its legacy model, which its own forward cannot run"
        )
    sizes: dict[str, int] = {}
    for field, ours in SIZES.items():
        size = fields.pop(field, None)
        if version == 0 and field == "num_action_layer":
            size = 0
        if size is None:
            raise ValueError(f"{path} has no field {field!r} ({ours} of a CoLA model)")
        least = 0 if version == 0 and field == "num_action_layer" else 2 if field == "num_code" else 1
        if not isinstance(size, int) or isinstance(size, bool) or size < least:
            raise ValueError(f"{path}: {field} must be a whole number of at least {least}, got {size!r}")
        sizes[ours] = size
    if "quantization_config" in fields:
        raise ValueError(f"{path}: quantised weights (quantization_config) are not supported")
    for other in (
        "_name_or_path",
        "architectures",
        "auto_map",
        "dtype",
        "torch_dtype",
        "transformers_version",
    ):
        fields.pop(other, None)
    text = LlamaConfig(**fields)
    # The versions differ only in the gradient of the residual.
    return CoLAConfig(text_config=text, readout="difference", detach_state=version != 0, **sizes)


def _matched(model: PreTrainedModel, stored: Mapping[str, Stored], folder: Path) -> dict[str, str]:
    """Official name -> our name of the tensors; ValueError unless they match the model exactly."""
    ours = {official_name(name): name for name in model.state_dict()}
    missing = [name for name in ours if name not in stored]
    if model.config.text_config.tie_word_embeddings and "lm_head.weight" in missing:
        missing.remove("lm_head.weight")
    if missing:
        files = {tensor.file for tensor in stored.values()}
        absent = missing_shards(files)
        raise ValueError(
            f"{len(missing)} of {len(ours)} tensors that {folder / 'config.json'} asks for are in none of "
            f"the {len(files)} weight files of that folder: {some(missing)}"
            + (f"; {len(absent)} shards are missing: {some(absent)}" if absent else "")
        )
    unexpected = [f"{name} in {tensor.file.name}" for name, tensor in stored.items() if name not in ours]
    if unexpected:
        hint = ""
        if model.inverse_head is None and "model.action_head.weight" in stored:
            hint = ". These weights have inverse dynamics, which v=0 has not: is v=1 meant?"
        raise ValueError(
            f"{folder} holds {len(unexpected)} tensors that its config.json has no place for: "
            f"{some(unexpected)}{hint}"
        )
    for name, tensor in stored.items():
        shape = tuple(model.get_parameter(ours[name]).shape)
        expected = shape[::-1] if name == CODEBOOK else shape
        if tensor.shape != expected:
            raise ValueError(
                f"tensor {name} in {tensor.file} has shape {list(tensor.shape)}, but config.json makes it "
                f"{list(expected)}"
            )
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"tensor {name} in {tensor.file} is stored as {tensor.dtype}, not as one of {list(DTYPES)}"
            )
    return {name: our for name, our in ours.items() if name in stored}


def _placement(
    model: Model, device_map: DeviceMap, dtype: torch.dtype
) -> tuple[Callable[[str], torch.device], Callable[[Model], Model]]:
    """The device of a tensor by its official or our name, and a function that finishes the loaded model."""
    if device_map != "auto":
        if device_map is not None and not isinstance(device_map, (str, int, torch.device)):
            raise TypeError(f"device_map is None, a device or 'auto', got {device_map!r}")
        device = torch.device("cpu" if device_map is None else device_map)
        return lambda name: device, lambda model: model
    try:
        import accelerate
    except ImportError as error:
        raise ImportError(
            "device_map='auto' needs accelerate: pip install accelerate; or name one device"
        ) from error
    plan = accelerate.infer_auto_device_map(
        model, no_split_module_classes=sorted(model._no_split_modules), dtype=dtype
    )
    if "disk" in plan.values():
        raise ValueError("the model does not fit into the devices and the memory of this machine")

    def device_of(name: str) -> torch.device:
        ours = rename(name, NAMES) if name.startswith(("model.", "lm_head.")) else name
        fits = [part for part in plan if not part or ours == part or ours.startswith(part + ".")]
        return torch.device(plan[max(fits, key=len)])

    return device_of, lambda model: accelerate.dispatch_model(model, device_map=plan)


def official_name(name: str) -> str:
    """The official name of one of our tensors."""
    return rename(name, tuple((ours, official) for official, ours in NAMES))


def rename(name: str, prefixes: Iterable[tuple[str, str]]) -> str:
    """Replace the prefix of a name.

    Raises:
        ValueError: for a name with none of the prefixes.
    """
    for old, new in prefixes:
        if name.startswith(old):
            return new + name[len(old) :]
    raise ValueError(f"no known tensor name begins like {name!r}")


def _resolve(dtype: torch.dtype | str | None, stored: Mapping[str, Stored]) -> torch.dtype:
    if dtype is None:
        return reduce(torch.promote_types, {DTYPES[tensor.dtype] for tensor in stored.values()})
    return float_type(dtype)


def local_folder(source: str | Path) -> Path:
    """The folder itself, or the hub's snapshot of an id."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if isinstance(source, Path) or not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise FileNotFoundError(f"{source} is neither a folder nor a hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{source} is no folder here, and the hub did not give it: {error}"
        ) from error
