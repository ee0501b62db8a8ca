"""Defaults and an example in every ``--help`` of ``cola``."""

from __future__ import annotations

import argparse
import textwrap

EXAMPLES = {
    "demo": "cola demo",
    "tasks": "cola tasks CoLA-Arithmetic-v0",
    "play": "cola play CoLA-TextRooms-v0 --codes",
    "train": "cola train --task CoLA-Thinking-v0 --algo grpo --timesteps 50000 --set lr=3e-3 --out run",
    "resume": "cola resume run",
    "eval": "cola eval --task CoLA-Arithmetic-v0 --env level=2 --out report.json",
    "generate": "cola generate --task CoLA-Arithmetic-v0 --env level=2 --n 16 --out tries.jsonl",
    "train-reward": "cola train-reward --pairs pairs.jsonl --model MODEL --out reward",
    "look": "cola look run --open",
    "inspect": "cola inspect --out codes",
    "fetch": "cola data fetch math500",
    "verify": "cola data verify math500",
    "path": "cola data path math500",
    "convert": "cola convert LAMDA-RL/Llama-3.1-CoLA-10B cola-10b --dtype bfloat16",
    "world": "cola pretrain world --model MODEL --data corpus.txt --out world",
    "policy": "cola pretrain policy --model world --data corpus.txt --out policy",
    "fta": "cola pretrain fta --model policy --data corpus.txt --out tuned",
    "q": "cola pretrain q --data tries.jsonl --out q",
    "outcome": "cola pretrain outcome --data tries.jsonl --held-out-problems 64 --out outcome",
    "base": "cola pretrain base --out base",
    "bundled": "cola pretrain bundled --out bundled",
    "controls": "cola pretrain controls --out bundled",
    "card": "cola pretrain card --out bundled",
}


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help with defaults, except for None, False and empty ones; 0 is shown."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is False or action.default in (None, [], (), argparse.SUPPRESS) or not action.help:
            return action.help
        return super()._get_help_string(action)


def add_descriptions(parser: argparse.ArgumentParser) -> None:
    """Make a command without a description show what the list of commands says of it, and so on below it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            said = {listed.dest: listed.help or "" for listed in action._choices_actions}
            for name, own in action.choices.items():
                if own.description is None:
                    own.description = textwrap.fill(f"{said[name][:1].upper()}{said[name][1:]}.", 80)
                add_descriptions(own)


def add_defaults_and_example(parser: argparse.ArgumentParser) -> None:
    """Make a command's help show its defaults and its example."""
    parser.formatter_class = Formatter
    name = parser.prog.split()[-1]
    if name in EXAMPLES:
        parser.epilog = "\n\n".join([*filter(None, [parser.epilog]), f"example: {EXAMPLES[name]}"])
