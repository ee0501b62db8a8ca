"""``cola data``: fetch, verify and find the published problem sets."""

from __future__ import annotations

import argparse

from cola_agents.commands import Commands


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("data", help="fetch, verify and find the published problem sets")
    actions = parser.add_subparsers(required=True, metavar="action")
    fetch = actions.add_parser("fetch", help="fetch a data set and check its sha256")
    fetch.add_argument("name", help="math500, math or gsm8k")
    fetch.add_argument(
        "--from",
        dest="source",
        metavar="FOLDER",
        help="a folder, file or file:// URL to take it from, instead of where it is published",
    )
    fetch.set_defaults(run=_fetch)
    verify = actions.add_parser(
        "verify", help="check sha256, number of problems, duplicates and overlap with the test set"
    )
    verify.add_argument("name", nargs="?", help="math500, math or gsm8k; by default all")
    verify.set_defaults(run=_verify)
    path = actions.add_parser("path", help="print where the files are ($COLA_DATA or ~/.cache/cola-rl)")
    path.add_argument("name", nargs="?", help="math500, math or gsm8k; by default the folder of all")
    path.set_defaults(run=_path)


def _fetch(arguments: argparse.Namespace) -> int:
    from cola_envs.datasets import fetch

    fetch(arguments.name, arguments.source, report=print)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from cola_envs.datasets import NAMES, verify

    names = NAMES if arguments.name is None else (arguments.name,)
    passed = True
    for result in [result for name in names for result in verify(name)]:
        line = f"{result.title} ({result.split}): {result.status}"
        if result.problems is not None:
            line += f", {result.problems} problems, {result.unanswered} without an answer left out"
            line += f", {result.duplicates} repeated"
        if result.overlap is not None:
            line += f", {result.overlap} of them in the test set"
        if result.sha256 is not None:
            line += f", sha256 {result.sha256}"
        print(f"{line}\n  {result.path}")
        # Without a name, a set that was never fetched is no error.
        passed &= result.status == "ok" or (result.status == "absent" and arguments.name is None)
    return 0 if passed else 1


def _path(arguments: argparse.Namespace) -> int:
    from cola_envs.datasets import cache_folder, files_of

    if arguments.name is None:
        print(cache_folder())
        return 0
    files = files_of(arguments.name)
    for file in files:
        print(file.path)
    return 0 if all(file.path.is_file() for file in files) else 1
