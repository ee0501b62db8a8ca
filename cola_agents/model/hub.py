"""Load, save and push a model, with complete safetensors weights and a model card."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import HfApi
from transformers import PretrainedConfig, PreTrainedModel

from cola_agents.model.base_reference import (
    REFERENCE,
    Base,
    Parts,
    latent_weights,
    reference_for,
    saved_parts,
    write_reference,
)
from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.loading import (
    check_config,
    check_files,
    load_config,
    load_generation_config,
    safe_options,
)
from cola_agents.model.reach import reachable

CARD = "README.md"
#: Arguments by which a caller determines where and how the hub is read.
HUB_OPTIONS = frozenset(("cache_dir", "local_files_only", "revision", "subfolder", "token"))


@contextmanager
def _no_older_weights(folder: Path) -> Iterator[None]:
    """A save, after which the weight files of an earlier save are removed that it did not write again.

    Loading would read a ``model.safetensors`` beside newer shards, or an index of shards beside it.
    """
    names = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
    older = [path for name in names for path in folder.glob(name)]
    for path in older:
        os.utime(path, ns=(0, 0))  # what is written again gets the time of now
    yield
    for path in older:
        if path.exists() and path.stat().st_mtime_ns == 0:
            path.unlink()


class CoLAPreTrainedModel(PreTrainedModel):  # type: ignore[misc]  # transformers' types are not read
    """The base class for loading and saving, from and to safetensors files only."""

    config_class = CoLAConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules: ClassVar[list[str]] = ["MergeLayer"]
    #: Where the base of this model can be read; None where that is unknown.
    origin: Base | None = None

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None,
        *args: object,
        base: str | Path | None = None,
        **kwargs: object,
    ) -> Any:
        """As in transformers, but without foreign code (:mod:`cola_agents.model.loading`) or missing weights.

        Latent parts that were saved without their base are loaded together with it.

        Args:
            source, args, kwargs: as in transformers.
            base: a folder or hub id to read the base of latent parts from, in place of the one that they
                name (it was moved, say).

        Raises:
            FileNotFoundError: for a source that is not a folder and not available from the hub, and for
                latent parts whose base is not there.
            ForeignCodeError: where the configuration asks for code.
            ValueError: for pickled weights, missing or unexpected weights, arguments that would allow any
                of these, latent parts of another base, ``base`` for a model that was saved whole, and another
                ``span`` than the model was trained with.
        """
        report_wanted = kwargs.pop("output_loading_info", False)
        parts: Parts | None = None
        options = safe_options(kwargs)
        if source is not None:
            if HUB_OPTIONS.isdisjoint(kwargs):
                source = reachable(source)
            if not isinstance(kwargs.get("config"), CoLAConfig):
                check_config(source, **kwargs)
            _check_span(source, kwargs)
            check_files(source)
            parts = saved_parts(source, base, **{k: v for k, v in kwargs.items() if k in HUB_OPTIONS})
        if parts is None and base is not None:
            raise ValueError(
                f"{source} holds a whole model, or latent parts without their {REFERENCE}: leave base= out, "
                "or put that file back"
            )
        if parts is None:
            model, report = super().from_pretrained(source, *args, **options, output_loading_info=True)
        else:
            model, report = cls._joined(parts, str(source), options)
        for kind in ("missing_keys", "unexpected_keys"):
            if report[kind]:
                names = sorted(report[kind])
                raise ValueError(
                    f"the weights of {model.name_or_path or 'this model'} contradict its config.json: "
                    f"{len(names)} {kind.replace('_', ' ')}, {', '.join(names[:3])}"
                    + (" and others" if len(names) > 3 else "")
                )
        return (model, report) if report_wanted else model

    @classmethod
    def _joined(cls, parts: Parts, source: str, options: dict[str, Any]) -> tuple[Any, Any]:
        """A model of latent parts and their base, and transformers' report on its weights."""
        dtype = options.pop("dtype", options.pop("torch_dtype", None))
        config = options.pop("config", None)
        options = {name: value for name, value in options.items() if name not in HUB_OPTIONS}
        if not isinstance(config, CoLAConfig):
            known = load_config(parts.folder).to_dict()
            config = load_config(
                parts.folder, **{name: options.pop(name) for name in known if name in options}
            )
        if dtype in (None, "auto"):
            dtype = config.dtype or torch.float32
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        model, report = super().from_pretrained(
            None,
            config=config,
            state_dict=parts.state(dtype),
            dtype=dtype,
            **options,
            output_loading_info=True,
        )
        if (parts.folder / "generation_config.json").is_file():
            model.generation_config = load_generation_config(parts.folder)
        model.name_or_path = model.config.name_or_path = source
        model.origin = parts.base
        return model, report

    def save_pretrained(
        self,
        save_directory: str | Path,
        *args: object,
        whole: bool | None = None,
        base: str | Path | None = None,
        **kwargs: Any,
    ) -> object:
        """As in transformers, with a model card where the folder holds none.

        Args:
            save_directory, args, kwargs: as in transformers.
            whole: write all weights (True), or the latent parts with a reference to the base (False); None
                for the latent parts where the base came from a folder or the hub and is unchanged, and else
                for everything.
            base: a folder or hub id to name as the base, in place of the one that the model was built on.

        Raises:
            ValueError: with ``whole=False``, for a model whose base is unknown or was changed; for ``base``
                together with ``whole=True``; and for the folder of the base itself, unless ``whole=True``.
        """
        if (pushed := _PUSHED.get()) is not None:
            whole, base = pushed
        folder, first = Path(save_directory), kwargs.get("is_main_process", True)
        if not whole and self.origin is not None and folder.resolve() == Path(self.origin.source).resolve():
            raise ValueError(
                f"{folder} holds the base of this model, which saving would overwrite: give another folder, "
                "or pass whole=True to replace the base by the whole model"
            )
        reference = self._reference(whole, base, kwargs.get("state_dict"))
        if reference is not None:
            kwargs["state_dict"] = latent_weights(kwargs.get("state_dict") or self.state_dict())
        if first:
            # A save that is killed leaves weights without a reference, never with that of another base.
            (folder / REFERENCE).unlink(missing_ok=True)
        with _no_older_weights(folder) if first else nullcontext():
            saved = super().save_pretrained(save_directory, *args, **kwargs)
        if first:
            if reference is not None:
                write_reference(folder, *reference)
            write_card(self, folder, reference and reference[0])
        return saved

    def _reference(self, whole: bool | None, base: str | Path | None, state: Any) -> tuple[Base, str] | None:
        """The base to refer to and the digest of its weights; None to write everything."""
        if whole:
            if base is not None:
                raise ValueError("base= names the base of latent parts, and whole=True writes everything")
            return None
        origin = self.origin if base is None else Base.named(base)
        if origin is None:
            reason = "it was not built on a folder or hub id" if base is None else f"{base} is neither"
        else:
            digest, reason = reference_for(self.state_dict() if state is None else state, origin, self.dtype)
            if digest is not None:
                return origin, digest
        if whole is False or base is not None:
            raise ValueError(f"this model cannot be saved without its base: {reason}; pass whole=True")
        if origin is not None and "differ" not in reason:
            warnings.warn(f"all weights are written, since {reason}", stacklevel=3)
        return None

    def push_to_hub(
        self, repo_id: str, *, whole: bool | None = None, base: str | None = None, **kwargs: Any
    ) -> object:
        """As in transformers, with our model card where the repository has none; push the tokenizer too.

        Args:
            repo_id, kwargs: as in transformers.
            whole: as in :meth:`save_pretrained`; None for the latent parts where the base is one of the
                hub, which others can read too, and else for everything.
            base: a hub id to name as the base.

        Raises:
            ValueError: as :meth:`save_pretrained` does, and for a base that is a folder of this machine.
        """
        named = self.origin if base is None else Base.named(base)
        if named is not None and named.is_folder:
            if whole is False or base is not None:
                raise ValueError(
                    f"the base {named.source} is a folder of this machine, which others cannot read: pass "
                    "base= with its hub id, or whole=True"
                )
            whole = True
        push_card(self, repo_id, None if whole else named, **kwargs)
        with _pushing(whole, base):
            return super().push_to_hub(repo_id, **kwargs)

    def _apply(self, *args: object, **kwargs: object) -> Self:
        """As in torch, but a change of type does not affect rotary frequencies.

        Rounded to bfloat16, they would rotate distant positions by whole radians.
        """
        exact = {
            (module, name): buffer
            for module in self.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if name.endswith("inv_freq")
        }
        super()._apply(*args, **kwargs)
        for (module, name), buffer in exact.items():
            moved = getattr(module, name)
            if moved.dtype != buffer.dtype:
                setattr(module, name, buffer.to(moved.device))
        return self


def _check_span(source: str | Path, options: dict[str, Any]) -> None:
    """Raise ValueError where ``span`` or ``config`` ask for another span than a saved model's."""
    config = options.get("config")
    asked = config.span if isinstance(config, CoLAConfig) else options.get("span")
    if asked is None:
        return
    where = {name: options[name] for name in HUB_OPTIONS & options.keys()}
    saved = PretrainedConfig.get_config_dict(source, **where)[0].get("span", 1)
    if asked != saved:
        raise ValueError(
            f"the codes of {source} were trained to last {saved} token(s), and span={asked} was asked for: "
            f"leave span out, or train a model of that span with `cola pretrain world --span {asked}`"
        )


#: The arguments ``whole`` and ``base`` of the push that saves a model now.
_PUSHED: ContextVar[tuple[bool | None, str | None] | None] = ContextVar("pushed", default=None)


@contextmanager
def _pushing(whole: bool | None, base: str | None) -> Iterator[None]:
    """A block in which ``save_pretrained``, called by transformers, has these arguments."""
    token = _PUSHED.set((whole, base))
    try:
        yield
    finally:
        _PUSHED.reset(token)


def write_card(model: PreTrainedModel, folder: Path, base: Base | None = None) -> None:
    """Write a model card into ``folder`` unless there is one; ``base`` as in :func:`model_card`."""
    if not (folder / CARD).exists():
        (folder / CARD).write_text(model_card(model, model.name_or_path, base), encoding="utf-8")


def push_card(
    model: PreTrainedModel,
    repo_id: str,
    base: Base | None = None,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    **others: object,
) -> None:
    """Create a repository where there is none, and put a model card into it if it has none.

    ``push_to_hub`` of transformers keeps an existing card and otherwise writes an empty one; this function
    leaves a revision or a pull request to it.

    Args:
        model, repo_id, private, token, revision, create_pr: as in ``push_to_hub``.
        base: as in :func:`model_card`.
        others: its other arguments, unused.
    """
    if revision is not None or create_pr:
        return
    api = HfApi()
    name = api.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    if not api.file_exists(name, CARD, token=token):
        api.upload_file(
            path_or_fileobj=model_card(model, name, base).encode(),
            path_in_repo=CARD,
            repo_id=name,
            token=token,
            commit_message="Add a model card",
        )


def model_card(model: PreTrainedModel, name: str, base_model: Base | None = None) -> str:
    """A model card with the sizes of a latent-action model and how to load it, without measurements.

    Args:
        model: a :class:`~cola_agents.model.modeling.CoLAForCausalLM`.
        name: its hub id; anything else (a local path, say) is left out.
        base_model: the base where its weights are not beside the card; a folder's path is left out.
    """
    config = model.config
    base = config.text_config
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or Path(name).exists():
        name = "path/or/hub-id"
    inverse, merge, policy = config.num_inverse_layers, config.num_merge_layers, config.num_policy_layers
    size = f"{base.num_hidden_layers} layers of width {base.hidden_size}, {base.vocab_size:,} tokens"
    lasting = f" of {config.span} tokens each" if config.span > 1 else ""
    held, metadata = "The weights", ""
    if base_model is not None:
        held = "The weights here are the latent parts; the base is read from where `base.json` says. They"
        metadata = "" if base_model.is_folder else f"base_model: {base_model.source}\n"
    return f"""---
{metadata}library_name: transformers
pipeline_tag: text-generation
tags:
- cola
- latent-actions
- {base.model_type}
---

# A latent-action language model

- {model.num_parameters():,} parameters, {config.num_codes} codes{lasting}, readout `{config.readout}`
- base: `{base.model_type}`, {size}
- layers: {inverse} inverse dynamics, {merge} merge, {policy} policy
- method: CoLA, [arXiv 2503.21383](https://arxiv.org/abs/2503.21383)

```python
from cola_agents import CoLAForCausalLM
from transformers import AutoTokenizer

model = CoLAForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

{held} are safetensors, and no code is loaded with them.
"""
