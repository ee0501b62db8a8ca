"""The subcommands of ``cola``, one per module: ``add(commands)`` adds a command's parser.

A command imports its heavy dependencies when it runs, so that ``cola --help`` stays fast.
"""

from __future__ import annotations

import argparse
from typing import TypeAlias

#: The type that ``ArgumentParser.add_subparsers`` returns.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
