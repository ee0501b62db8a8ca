"""Load configurations, models, tokenizers, adapters and data sets of third parties, without their code.

A file that asks for code (``auto_map``, attention kernels from the hub, quantised weights, which need
kernels) is refused before anything is loaded, and weights are read from safetensors alone. A model that needs
code can be loaded by the user and passed as an object.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from cola_agents.common.files import finish_moves
from cola_agents.model.shards import check_weights, refuse_pickles
from cola_envs import jsonl

if TYPE_CHECKING:
    from datasets import IterableDataset
    from peft import PeftModel

#: The only allowed values of the arguments of ``from_pretrained`` that can run a model's code.
SAFE: Mapping[str, bool | None] = {
    "trust_remote_code": False,
    "use_safetensors": True,
    "use_kernels": False,
    "kernel_config": None,
    "allow_all_kernels": False,
}
#: Implementations of attention and of experts in torch.
IMPLEMENTATIONS = ("eager", "sdpa", "grouped_mm")
#: The field that marks the configuration of an official checkpoint. Its ``auto_map`` names the authors' code;
#: :mod:`cola_agents.model.official` reads the files without it.
OFFICIAL = "num_code"
#: Held while transformers makes a model: to load one it replaces methods of its classes, such as that which
#: ties weights. Of two threads one would get an untied model, and they could stay replaced for good.
ONE_AT_A_TIME = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A fork waits for another thread's load: the child would have the held lock and the replaced methods, and
    # no thread to give them back. The load may use an executor, whose lock a fork has to take after this one.
    os.register_at_fork(
        before=ONE_AT_A_TIME.acquire,
        after_in_parent=ONE_AT_A_TIME.release,
        after_in_child=ONE_AT_A_TIME.release,
    )
#: The folder of adapters beside a model whose base is unchanged.
ADAPTERS = "adapters"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_INSTEAD = "where you trust it, load it with transformers yourself and pass the object as model= (tokenizer=)"


class ForeignCodeError(ValueError):
    """A model's files ask for code from outside this package and the installed libraries."""


def load_config(source: str | Path, **fields: object) -> PretrainedConfig:
    """Load a model's configuration.

    Args:
        source: a folder or a hub id.
        fields: values that replace the file's.

    Raises:
        OSError: where there is none.
        ForeignCodeError: for one that asks for code.
        ValueError: for a type of model unknown to transformers.
    """
    check_config(source)
    return AutoConfig.from_pretrained(source, trust_remote_code=False, **fields)


def load_model(
    kind: type[PreTrainedModel] | type[AutoModel],
    source: str | Path,
    *,
    config: PretrainedConfig | None = None,
    **options: object,
) -> PreTrainedModel:
    """Load a model of transformers.

    Args:
        kind: the class whose ``from_pretrained`` is called.
        source: a folder or a hub id.
        config: the result of :func:`load_config`, or None.
        options: other arguments of ``from_pretrained``, such as ``dtype``.

    Raises:
        OSError: where there is none, or none in safetensors.
        ForeignCodeError: for one that asks for code.
        ValueError: for pickled weights, and for weights outside the folder.
    """
    config = load_config(source) if config is None else config
    check_files(source)
    with ONE_AT_A_TIME:
        return kind.from_pretrained(source, config=config, **safe_options(options))


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Raises:
        FileNotFoundError: where there is no readable tokenizer.
        ForeignCodeError: for one that asks for code.
    """
    try:
        _check_fields(get_tokenizer_config(source), f"tokenizer_config.json of {source}")
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except ForeignCodeError:
        raise
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"no tokenizer found at {str(source)!r}: {error}") from error


def load_generation_config(folder: Path) -> GenerationConfig:
    """Load the defaults of ``generate`` from a folder."""
    return GenerationConfig.from_pretrained(folder)


def load_adapters(model: nn.Module, folder: Path) -> PeftModel:
    """Insert the low-rank adapters of a folder into a model, which becomes a ``peft.PeftModel``.

    Raises:
        ImportError: without `peft`.
        FileNotFoundError: without their weights.
        ForeignCodeError: for other adapters, which import modules that their description names.
        ValueError: for pickled weights.
    """
    check_adapters(folder)
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder))


def stream_dataset(path: str, subset: str | None, split: str, files: Sequence[str] | None) -> IterableDataset:
    """Stream a data set of the hub or a folder; `datasets` from 4.0 on runs no loading scripts.

    Raises:
        ImportError: without `datasets`.
        OSError: where it cannot be found or reached.
        ValueError: for a split or subset that does not exist, and for a data set that is a script.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError("streaming data needs `datasets`: pip install 'cola-rl[data]'") from error
    try:
        return load_dataset(path, subset, split=split, streaming=True, data_files=files)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def safe_options(options: Mapping[str, object]) -> dict[str, object]:
    """Add :data:`SAFE` to arguments for ``from_pretrained``.

    Raises:
        ValueError: where they contradict it.
    """
    for name, safe in SAFE.items():
        if options.get(name) not in (None, safe):
            raise ValueError(
                f"{name}={options[name]!r} is refused: no code that comes with a model is run, and weights "
                f"are read from safetensors alone ({name}={safe}); {_INSTEAD}"
            )
    return {**options, **SAFE}


def check_config(source: str | Path, **options: object) -> None:
    """Raise ForeignCodeError for a ``config.json`` that asks for code; options as in ``from_pretrained``."""
    if Path(source).is_dir():
        finish_moves(Path(source))
    fields, _ = PretrainedConfig.get_config_dict(source, **options)
    _check_fields(fields, f"config.json of {source}", allowed=("auto_map",) if OFFICIAL in fields else ())


def check_files(source: str | Path) -> None:
    """Raise for a folder with pickled weights, weights outside it, or adapters that ask for code."""
    folder = Path(source)
    if folder.is_dir():
        finish_moves(folder)
        check_weights(folder)
        if (folder / ADAPTER).is_file():
            check_adapters(folder)


def check_adapters(folder: Path) -> None:
    """Raise for adapters whose description names code, or whose weights are pickled or absent."""
    fields = jsonl.read_object(folder / ADAPTER)
    if fields.get("peft_type") != "LORA" or fields.get("megatron_config"):
        raise ForeignCodeError(
            f"{folder / ADAPTER} asks for peft_type={fields.get('peft_type')!r} with "
            f"megatron_config={fields.get('megatron_config')!r}; only plain LORA adapters are loaded, since "
            "others import what their description names. Merge them into the model where you trust them"
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        refuse_pickles(folder)
        raise FileNotFoundError(f"{folder} holds {ADAPTER} but no {ADAPTER_WEIGHTS}: copy it there")


def _check_fields(fields: Mapping[str, object], where: str, allowed: Sequence[str] = ()) -> None:
    for name, value in _nested(fields):
        if name in allowed or value is None:
            continue
        if name == "auto_map" and value:
            raise ForeignCodeError(
                f"auto_map in {where} asks to run code that comes with it ({value!r}); only what "
                f"transformers itself knows is loaded: {_INSTEAD}, or remove auto_map where transformers' "
                "own class is meant"
            )
        if name in ("quantization_config", "compression_config"):
            raise ForeignCodeError(
                f"{name} in {where} asks for quantised weights, whose reader brings kernels of its own; "
                f"float weights are loaded: {_INSTEAD}"
            )
        if name == "transformers_weights":
            raise ForeignCodeError(
                f"transformers_weights in {where} names a file of weights, {value!r}; weights are read from "
                "model.safetensors or its shards: rename the file and remove the field"
            )
        if name.strip("_").removesuffix("_internal") in ("attn_implementation", "experts_implementation"):
            for choice in [v for _, v in _nested(value)] if isinstance(value, dict) else [value]:
                if choice is not None and choice not in IMPLEMENTATIONS:
                    raise ForeignCodeError(
                        f"{name} in {where} asks for {choice!r}, whose kernels may come "
                        f"from the hub; {', '.join(IMPLEMENTATIONS)} are allowed: remove the field, or "
                        f"{_INSTEAD}"
                    )


def _nested(fields: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Names and values of a configuration and of the configurations inside it."""
    for name, value in fields.items():
        yield name, value
        if isinstance(value, Mapping) and name != "auto_map":
            yield from _nested(value)
