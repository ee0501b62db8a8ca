"""Load, save and push a model, with complete safetensors weights and a model card."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Self

from huggingface_hub import HfApi
from transformers import PreTrainedModel

from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.loading import check_config, check_files, safe_options
from cola_agents.model.reach import reachable

CARD = "README.md"
#: Arguments by which a caller determines where and how the hub is read.
HUB_OPTIONS = frozenset(("cache_dir", "local_files_only", "revision", "subfolder", "token"))


class CoLAPreTrainedModel(PreTrainedModel):  # type: ignore[misc]  # transformers' types are not read
    """The base class for loading and saving, from and to safetensors files only."""

    config_class = CoLAConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules: ClassVar[list[str]] = ["MergeLayer"]

    @classmethod
    def from_pretrained(cls, source: str | Path | None, *args: object, **kwargs: object) -> Any:
        """As in transformers, but without foreign code (:mod:`cola_agents.model.loading`) or missing weights.

        Raises:
            FileNotFoundError: for a source that is not a folder and not available from the hub.
            ForeignCodeError: where the configuration asks for code.
            ValueError: for pickled weights, missing or unexpected weights, and arguments that would allow any
                of these.
        """
        report_wanted = kwargs.pop("output_loading_info", False)
        options = safe_options(kwargs)
        if source is not None:
            if HUB_OPTIONS.isdisjoint(kwargs):
                source = reachable(source)
            if not isinstance(kwargs.get("config"), CoLAConfig):
                check_config(source, **kwargs)
            check_files(source)
        model, report = super().from_pretrained(source, *args, **options, output_loading_info=True)
        for kind in ("missing_keys", "unexpected_keys"):
            if report[kind]:
                names = sorted(report[kind])
                raise ValueError(
                    f"the weights of {model.name_or_path or 'this model'} contradict its config.json: "
                    f"{len(names)} {kind.replace('_', ' ')}, {', '.join(names[:3])}"
                    + (" and others" if len(names) > 3 else "")
                )
        return (model, report) if report_wanted else model

    def save_pretrained(self, save_directory: str | Path, *args: object, **kwargs: object) -> object:
        """As in transformers, with a model card where the folder holds none."""
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            write_card(self, Path(save_directory))
        return saved

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> object:
        """As in transformers, with our model card where the repository has none; push the tokenizer too."""
        push_card(self, repo_id, **kwargs)
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


def write_card(model: PreTrainedModel, folder: Path) -> None:
    """Write a model card into ``folder`` unless there is one."""
    if not (folder / CARD).exists():
        (folder / CARD).write_text(model_card(model, model.name_or_path), encoding="utf-8")


def push_card(
    model: PreTrainedModel,
    repo_id: str,
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
        others: its other arguments, unused.
    """
    if revision is not None or create_pr:
        return
    api = HfApi()
    name = api.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    if not api.file_exists(name, CARD, token=token):
        api.upload_file(
            path_or_fileobj=model_card(model, name).encode(),
            path_in_repo=CARD,
            repo_id=name,
            token=token,
            commit_message="Add a model card",
        )


def model_card(model: PreTrainedModel, name: str) -> str:
    """A model card with the sizes of a latent-action model and how to load it, without measurements.

    Args:
        model: a :class:`~cola_agents.model.modeling.CoLAForCausalLM`.
        name: its hub id; anything else (a local path, say) is left out.
    """
    config = model.config
    base = config.text_config
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or Path(name).exists():
        name = "path/or/hub-id"
    inverse, merge, policy = config.num_inverse_layers, config.num_merge_layers, config.num_policy_layers
    size = f"{base.num_hidden_layers} layers of width {base.hidden_size}, {base.vocab_size:,} tokens"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- cola
- latent-actions
- {base.model_type}
---

# A latent-action language model

- {model.num_parameters():,} parameters, {config.num_codes} codes, readout `{config.readout}`
- base: `{base.model_type}`, {size}
- layers: {inverse} inverse dynamics, {merge} merge, {policy} policy
- method: CoLA, [arXiv 2503.21383](https://arxiv.org/abs/2503.21383)

```python
from cola_agents import CoLAForCausalLM
from transformers import AutoTokenizer

model = CoLAForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

The weights are safetensors, and no code is loaded with them.
"""
