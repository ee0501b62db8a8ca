"""``cola convert``: write an official checkpoint in this project's format, or latent parts with a base."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cola_agents.commands import Commands
from cola_agents.commands.settings import check_out

if TYPE_CHECKING:
    import torch

    from cola_agents.model.modeling import CoLAForCausalLM


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    text = (
        "write an official CoLA checkpoint in this project's format, or a model saved without its base anew"
    )
    parser = commands.add_parser("convert", help=text)
    parser.add_argument("official", metavar="source", help="folder or hub id")
    parser.add_argument("ours", metavar="target", type=Path, help="folder to write; must be empty or absent")
    parser.add_argument("--dtype", help="e.g. bfloat16; by default that of the files")
    parser.add_argument(
        "--whole", action="store_true", help="of latent parts: write their base's weights too"
    )
    parser.add_argument("--base", help="of latent parts: where their base is now, a folder or hub id")
    parser.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace) -> int:
    check_out(arguments.ours, "folder", "target")
    options = {"dtype": arguments.dtype}
    if arguments.whole or arguments.base is not None:
        rewrite(arguments.official, arguments.ours, whole=arguments.whole, base=arguments.base, **options)
    else:
        convert(arguments.official, arguments.ours, **options)
    print(f"Wrote {arguments.ours}.")
    return 0


def convert(source: str | Path, target: str | Path, *, dtype: torch.dtype | str | None = None) -> None:
    """Write an official checkpoint in our format, with its tokenizer if it has one.

    The folder is written atomically.

    Args:
        source, dtype: as in :func:`cola_agents.model.official.from_official`.
        target: a folder that does not exist or is empty.

    Raises:
        FileExistsError: where ``target`` is not empty.
        ValueError: for a tokenizer with an id beyond the model's embeddings, and as in
            :func:`cola_agents.model.official.from_official`.
    """
    from cola_agents.model.modeling import CoLAForCausalLM
    from cola_agents.model.official import local_folder

    folder = local_folder(source)
    _write(CoLAForCausalLM.from_official(folder, dtype=dtype), folder, Path(target), whole=True)


def rewrite(
    source: str | Path,
    target: str | Path,
    *,
    whole: bool = False,
    base: str | None = None,
    dtype: torch.dtype | str | None = None,
) -> None:
    """Write a model that was saved without its base anew: with its base, or with another place of its base.

    Args:
        source: its folder or hub id.
        target: a folder that does not exist or is empty.
        whole: write all weights in place of the latent parts.
        base: where the base is now, a folder or hub id; None for where it was.
        dtype: of the written weights; None for that of the files.

    Raises:
        FileExistsError: where ``target`` is not empty.
        FileNotFoundError, ValueError: as
            :meth:`~cola_agents.model.hub.CoLAPreTrainedModel.from_pretrained` does.
    """
    from cola_agents.model.modeling import CoLAForCausalLM
    from cola_agents.model.official import local_folder

    folder = local_folder(source)
    model = CoLAForCausalLM.from_pretrained(folder, base=base, dtype=dtype)
    _write(model, folder, Path(target), whole=whole)


def _write(model: CoLAForCausalLM, folder: Path, target: Path, *, whole: bool) -> None:
    """Write a model, with the tokenizer of the folder that it came from."""
    from cola_agents.common.files import inside, whole_folder
    from cola_agents.model.loading import load_tokenizer
    from cola_agents.model.official import TOKENIZER_FILES
    from cola_agents.model.text import PlainTokenizer, check_fits

    files = [inside(folder, name) for name in TOKENIZER_FILES if (folder / name).is_file()]
    if files:
        check_fits(PlainTokenizer(load_tokenizer(folder)), model.config.vocab_size)
    with whole_folder(target) as partial:
        model.save_pretrained(partial, whole=whole, max_shard_size="5GB")
        for file in files:
            shutil.copyfile(file, partial / file.name)
