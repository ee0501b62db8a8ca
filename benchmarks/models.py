"""``python -m benchmarks models``: several pre-trained models of one recipe, for comparisons over them.

What an RL run gives depends on the model's own luck: how its codes came out, above all. So a comparison
needs several pre-trained models. Each seed gives three that share a tokenizer, a corpus and a base:

- ``base``: that base;
- ``cola``: world model and cloned policy around it, as the bundled one;
- ``rank``: the base under rank codes (:mod:`benchmarks.compare.rank`), with a policy stack cloned for as many
  tokens as the latent policy was.

With ``--controls`` there are two more, which tell what the latent-action stages themselves give:

- ``longer``: the base after further training, on as many tokens as the stages read;
- ``fta``: ``cola`` after FTA-I on the same tokens.

``--variants`` adds latent-action models that differ from ``cola`` in one thing: ``codes-16``, ``codes-256``
in the number of codes; ``span-4``, ``span-8`` in how many tokens a code lasts; the spans of
``span-8-unsure`` end early where the base is unsure of the next token.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks import Commands
from benchmarks.compare.rank import clone_ranks
from cola_agents.common.files import one_writer, write_json
from cola_agents.common.provenance import provenance
from cola_agents.decoding.loading import BUNDLED
from cola_agents.train.bundled.recipe import (
    METRICS,
    RECIPE,
    VARIANTS,
    train_bundled,
    train_controls,
    train_variant,
)
from cola_agents.train.bundled.settings import Recipe
from cola_envs import jsonl

#: Written last: a folder that has it is whole.
DONE = "pretrained.json"


def scaled(seed: int, scale: float) -> Recipe:
    """The bundled recipe with every stage at ``scale`` of its steps."""
    recipe = Recipe(seed=seed)
    stages = ("base", "world", "policy")
    return dataclasses.replace(
        recipe,
        **{
            name: dataclasses.replace(
                getattr(recipe, name), steps=max(1, round(getattr(recipe, name).steps * scale))
            )
            for name in stages
        },
    )


def pretrain(seed: int, scale: float, out: Path) -> Path:
    """The models of one seed in ``out/<seed>``; returns at once where they are complete.

    Those of the bundled recipe itself are not trained again. A run that was stopped goes on.

    Raises:
        ValueError: where the folder holds models of another scale.
        FileExistsError: where it holds those of another recipe.
        InUseError: where another process writes the folder.
    """
    folder = out / str(seed)
    with one_writer(folder):
        _pretrain(seed, scale, folder)
    return folder


def _pretrain(seed: int, scale: float, folder: Path) -> None:
    done = folder / DONE
    recipe = scaled(seed, scale)
    described = json.loads(json.dumps(dataclasses.asdict(recipe)))
    if done.is_file():
        held = jsonl.read_object(done, "scale")["scale"]
        if held != scale:
            raise ValueError(
                f"{folder.name} holds models trained at scale {held}, not {scale}: use another folder"
            )
        return
    started = time.process_time()
    if described == _bundled_recipe():
        for name in ("base", "cola"):
            shutil.copytree(BUNDLED / name, folder / name, dirs_exist_ok=True)
        write_json(folder / RECIPE, described, indent=2)
    else:
        train_bundled(recipe, folder)
    clone_ranks(recipe, folder / "base", folder / "rank")
    # Where it was stopped in between, this counts what came after.
    figures = {**provenance(), "seed": seed, "scale": scale, "cpu_s": round(time.process_time() - started, 1)}
    write_json(done, figures, indent=1)


def controls(seed: int, scale: float, out: Path) -> Path:
    """Add the controls to a seed's models; returns at once where they are whole already.

    Raises:
        FileNotFoundError: where :func:`pretrain` has not made the models.
        InUseError: where another process writes the folder.
    """
    folder = out / str(seed)
    with one_writer(folder):
        # The last control's figures are written last.
        if not (folder / "fta" / METRICS).is_file():
            train_controls(scaled(seed, scale), folder)
    return folder


def variant(seed: int, scale: float, out: Path, name: str) -> Path:
    """Add another latent-action model to a seed's models; returns at once where it is whole.

    Raises:
        FileNotFoundError: where :func:`pretrain` has not made the models.
        InUseError: where another process writes the folder.
    """
    folder = out / str(seed)
    with one_writer(folder):
        if not (folder / name / METRICS).is_file():
            train_variant(scaled(seed, scale), folder, name)
    return folder / name


def _bundled_recipe() -> dict[str, Any]:
    """The recipe of the bundled models, from the figures of their model card.

    An option that is younger than the models had its default when they were trained.
    """
    held = jsonl.read_object(BUNDLED / "metrics.json", "recipe")["recipe"]
    defaults = json.loads(json.dumps(dataclasses.asdict(Recipe())))
    return {
        name: {**default, **held.get(name, {})} if isinstance(default, dict) else held.get(name, default)
        for name, default in defaults.items()
    }


def add(commands: Commands) -> None:
    parser = commands.add_parser("models", help="pre-train models of several seeds, for `compare`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument(
        "--scale", type=float, default=1.0, help="steps of every stage, as a share of the recipe's"
    )
    parser.add_argument("--controls", action="store_true", help="train the controls of the stages, too")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=[],
        choices=VARIANTS,
        metavar="NAME",
        help=f"add latent-action models that differ in one thing: {', '.join(VARIANTS)}",
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder for them: about 80 MB a seed")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    for seed in arguments.seeds:
        print(f"Wrote {pretrain(seed, arguments.scale, arguments.out)}.")
    for seed in arguments.seeds if arguments.controls else ():
        print(f"Wrote the controls in {controls(seed, arguments.scale, arguments.out)}.")
    for seed in arguments.seeds:
        for name in arguments.variants:
            print(f"Wrote {variant(seed, arguments.scale, arguments.out, name)}.")
