"""``cola convert``: write an official checkpoint in this project's format."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cola_agents.commands import Commands

if TYPE_CHECKING:
    import torch


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("convert", help="write an official CoLA checkpoint in this project's format")
    parser.add_argument("official", help="folder or hub id")
    parser.add_argument("ours", type=Path, help="folder to write; must be empty or absent")
    parser.add_argument("--dtype", help="e.g. bfloat16; by default that of the files")
    parser.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace) -> int:
    convert(arguments.official, arguments.ours, dtype=arguments.dtype)
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
    from cola_agents.common.files import inside, whole_folder
    from cola_agents.model.loading import load_tokenizer
    from cola_agents.model.modeling import CoLAForCausalLM
    from cola_agents.model.official import TOKENIZER_FILES, _local
    from cola_agents.model.text import PlainTokenizer, check_fits

    folder = _local(source)
    model = CoLAForCausalLM.from_official(folder, dtype=dtype)
    files = [inside(folder, name) for name in TOKENIZER_FILES if (folder / name).is_file()]
    if files:
        check_fits(PlainTokenizer(load_tokenizer(folder)), model.config.vocab_size)
    with whole_folder(Path(target)) as partial:
        model.save_pretrained(partial, max_shard_size="5GB")
        for file in files:
            shutil.copyfile(file, partial / file.name)
