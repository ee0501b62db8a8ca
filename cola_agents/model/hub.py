"""Load, save and push a model, with complete safetensors weights and a model card."""

from __future__ import annotations

import re
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import HfApi
from transformers import PretrainedConfig, PreTrainedModel

from cola_agents.common.files import Step, finish_moves, flush, move_files
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
    OFFICIAL,
    ONE_AT_A_TIME,
    check_config,
    check_files,
    load_config,
    load_generation_config,
    safe_options,
)
from cola_agents.model.reach import reachable
from cola_agents.model.shards import disk_errors, float_type

CARD = "README.md"
#: Arguments by which a caller determines where and how the hub is read.
HUB_OPTIONS = frozenset(("cache_dir", "local_files_only", "revision", "subfolder", "token"))


#: How the name of a folder within a model's begins, in which a save is written before its files replace those
#: of the last one; and the seconds after which one that nobody wrote to is what a kill left behind.
_UNFINISHED, _LEFTOVER = ".saving-", 3600.0
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
#: The arguments of transformers' ``save_pretrained`` in their order, and those that only a push reads.
_POSITIONAL = ("is_main_process", "state_dict", "push_to_hub", "max_shard_size", "variant", "token")
_OF_PUSH = ("repo_id", "commit_message", "commit_description", "private", "revision", "create_pr", "tags")


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder within ``folder``; at the block's end its files replace those of the model there.

    After an error in the block, or a kill in it, the model in ``folder`` is as it was. After a kill while its
    files are moved, the next load or save moves the others. Of two saves at once one replaces the
    other's files.

    Raises:
        OSError: where a file cannot be written, or a folder has its name.
        ValueError: where what a killed save wrote down is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finish_moves(folder)
    _remove_leftovers(folder)
    new = folder / f"{_UNFINISHED}{uuid.uuid4().hex[:8]}"
    new.mkdir()
    try:
        with disk_errors(folder):
            yield new
        for file in new.iterdir():
            flush(file)
        move_files(new, lambda: _steps(folder, new))
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed saves left in a folder; what another process writes now stays."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        with suppress(FileNotFoundError):  # the other process was faster
            written = max(part.stat().st_mtime for part in (path, *path.glob("*")))
            if time.time() - written > _LEFTOVER:
                shutil.rmtree(path, ignore_errors=True)


def _steps(folder: Path, new: Path) -> list[tuple[Step, str]]:
    """How a save's files come to ``folder``, and the weights and the reference that it did not write go.

    Their order is for who reads the folder meanwhile. A reference to a base is of no effect beside the
    weights of a whole model: it comes before the parts that replace these, and goes after the parts that
    these replace. One to another base is removed first and written last, so that parts are never beside the
    reference of another base.
    """
    names = {path.name for path in new.iterdir()}
    older = {path.name for pattern in _WEIGHTS for path in folder.glob(pattern)} - names
    reference, before = new / REFERENCE, folder / REFERENCE
    another = reference.exists() and before.exists() and reference.read_bytes() != before.read_bytes()
    steps: list[tuple[Step, str]] = [("remove", REFERENCE)] if another else []
    steps += [("move", name) for name in sorted(names, key=lambda one: ((one == REFERENCE) == another, one))]
    steps += [("remove", name) for name in sorted(older)]
    return steps if REFERENCE in names else [*steps, ("remove", REFERENCE)]


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
            ValueError: for a model of another kind, a language model or an official checkpoint for instance,
                pickled weights, missing or unexpected weights, arguments that would allow any of these, a
                ``dtype`` that is no floating type, latent parts of another base, ``base`` for a model that
                was saved whole, and another ``span`` than the model was trained with.
        """
        report_wanted = kwargs.pop("output_loading_info", False)
        parts: Parts | None = None
        for name in ("dtype", "torch_dtype"):
            if isinstance(given := kwargs.get(name), str | torch.dtype) and given != "auto":
                kwargs[name] = float_type(given)
        options = safe_options(kwargs)
        if source is not None:
            if HUB_OPTIONS.isdisjoint(kwargs):
                source = reachable(source)
            if not isinstance(kwargs.get("config"), CoLAConfig):
                check_config(source, **kwargs)
            _check_saved(cls, source, kwargs)
            check_files(source)
            parts = saved_parts(source, base, **{k: v for k, v in kwargs.items() if k in HUB_OPTIONS})
        if parts is None and base is not None:
            raise ValueError(
                f"{source} holds a whole model, or latent parts without their {REFERENCE}: leave base= out, "
                "or put that file back"
            )
        if parts is None:
            with ONE_AT_A_TIME:
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
        dtype = float_type(dtype)
        state = parts.state(dtype)
        with ONE_AT_A_TIME:
            model, report = super().from_pretrained(
                None, config=config, state_dict=state, dtype=dtype, **options, output_loading_info=True
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

        All files are written beside the last save's before they replace these: after an error, or a kill
        while they are written, the folder holds the model that it held.

        Args:
            save_directory, args, kwargs: as in transformers, without ``variant``. ``push_to_hub=True`` calls
                :meth:`push_to_hub` afterwards.
            whole: write all weights (True), or the latent parts with a reference to the base (False); None
                for the latent parts where the base came from a folder or the hub and is unchanged, and else
                for everything.
            base: a folder or hub id to name as the base, in place of the one that the model was built on.

        Raises:
            ValueError: with ``whole=False``, for a model whose base is unknown or was changed; for ``base``
                together with ``whole=True``; for the folder of the base itself (the model's, or the one that
                ``base`` names), unless ``whole=True``; and for a ``variant``.
            OSError: where it cannot be written, on a full disk for instance.
        """
        if (pushed := _PUSHED.get()) is not None:
            whole, base = pushed
        kwargs = {**dict(zip(_POSITIONAL, args, strict=False)), **kwargs}
        folder, first = Path(save_directory), kwargs.get("is_main_process", True)
        self._check_place(folder, whole, base, kwargs)
        pushed_too = kwargs.pop("push_to_hub", False)
        of_push: dict[str, Any] = {name: kwargs.pop(name) for name in _OF_PUSH if name in kwargs}
        of_push |= {name: kwargs[name] for name in ("token", "max_shard_size") if name in kwargs}
        reference = self._reference(whole, base, kwargs.get("state_dict"))
        if reference is not None:
            kwargs["state_dict"] = latent_weights(kwargs.get("state_dict") or self.state_dict())
        with _replacing(folder) if first else nullcontext(folder) as place:
            saved = super().save_pretrained(place, **kwargs)
            if first and reference is not None:
                write_reference(place, *reference, beside=folder)
        if first:
            write_card(self, folder, reference and reference[0])
        if first and pushed_too:
            repository = of_push.pop("repo_id", folder.resolve().name)
            self.push_to_hub(repository, whole=whole, base=None if base is None else str(base), **of_push)
        return saved

    def _check_place(
        self, folder: Path, whole: bool | None, base: str | Path | None, options: Mapping[str, Any]
    ) -> None:
        """Raise ValueError for the folder of the base, and for what a save of this model does not write."""
        for origin in (self.origin, None if base is None else Base.named(base)):
            if not whole and origin is not None and folder.resolve() == Path(origin.source).resolve():
                raise ValueError(
                    f"{folder} holds the base of this model, which saving would overwrite: give another "
                    "folder, or pass whole=True (without base=) to replace the base by the whole model"
                )
        if options.get("variant") is not None:
            raise ValueError(
                f"variant={options['variant']!r}: a folder holds the weights of one model, in one type: "
                "leave variant out, and give each type a folder of its own"
            )
        if options.get("push_to_hub") and options.get("state_dict") is not None:
            raise ValueError(
                "push_to_hub=True pushes the model's own weights, and state_dict= gives others: save them "
                "without push_to_hub, and upload the folder by huggingface_hub.upload_folder"
            )

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


def _check_saved(model_class: type[CoLAPreTrainedModel], source: str | Path, options: dict[str, Any]) -> None:
    """Raise ValueError for another kind of model, or another span than ``span`` or ``config`` ask for."""
    config = options.get("config")
    asked = config.span if isinstance(config, CoLAConfig) else options.get("span")
    where = {name: options[name] for name in HUB_OPTIONS & options.keys()}
    fields = PretrainedConfig.get_config_dict(source, **where)[0]
    if OFFICIAL in fields:
        raise ValueError(
            f"{source} holds a checkpoint in the authors' format: load it with "
            f"CoLAForCausalLM.from_official, or write it in ours by `cola convert {source} TARGET`, without "
            "--whole and --base"
        )
    own = {CoLAConfig.model_type, model_class.config_class.model_type}
    if (kind := fields.get("model_type", CoLAConfig.model_type)) not in own:
        raise ValueError(
            f"{source} holds a {kind} model, not a latent-action model: grow one around it with "
            f"CoLAForCausalLM.from_base or `cola pretrain world --model {source}`"
        )
    saved = fields.get("span", 1)
    if asked not in (None, saved):
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
