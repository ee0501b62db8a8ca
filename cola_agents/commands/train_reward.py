"""``cola train-reward``: train a reward model on preference pairs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cola_agents.commands import Commands
from cola_agents.commands.settings import check_out


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("train-reward", help="train a reward model on preference pairs")
    parser.add_argument("--pairs", type=Path, required=True, help="JSONL of prompt, chosen and rejected")
    parser.add_argument(
        "--model", required=True, help="folder or hub id of a causal LM or classifier to start from"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must be empty or absent")
    parser.add_argument("--lr", type=float, default=9e-6, help="peak learning rate")
    parser.add_argument("--batch-size", type=int, default=256, help="pairs per step")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the pairs")
    parser.add_argument(
        "--max-length", type=int, default=512, help="tokens of prompt and response, up to the context"
    )
    parser.add_argument("--held-out", type=float, default=0.05, help="share of the pairs to evaluate on")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the order, the held-out pairs and the head"
    )
    parser.add_argument("--device", help="e.g. cuda")
    parser.set_defaults(run=_train_reward)


def _train_reward(arguments: argparse.Namespace) -> int:
    from cola_agents.train.reward import RewardConfig, read_pairs, train_reward

    config = RewardConfig(
        lr=arguments.lr,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        max_length=arguments.max_length,
        held_out=arguments.held_out,
        seed=arguments.seed,
    )
    check_out(arguments.out, "folder")
    pairs = read_pairs(arguments.pairs)
    report = train_reward(arguments.model, pairs, arguments.out, config, device=arguments.device)
    print(json.dumps(report, indent=2))
    return 0
