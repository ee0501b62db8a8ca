"""Configuration of the documentation site; ``sphinx-build --fail-on-warning docs build/site`` builds it."""

import re
import sys
import warnings
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from command_pages import write_commands  # noqa: E402
from environment_pages import write_pages  # noqa: E402

project = "cola-rl"
author = "The cola-rl maintainers"
project_copyright = author
html_title = "cola-rl"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["transcripts"]
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_use_ivar = True
add_module_names = False

html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_show_sourcelink = False


def _rubrics(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Make headings of the Markdown headings of Gymnasium's docstrings, and a list of an agent's options."""
    text = re.sub(r"(?m)^#{1,3} (.+)$", r"\n.. rubric:: \1\n", "\n".join(lines))
    lines[:] = text.replace("\nOptions:\n", "\nOptions::\n\n").split("\n")


def _without_file(app: Sphinx, docname: str, source: list[str]) -> None:
    """Leave out the link to the file that a page includes, for readers of the sources on GitHub."""
    source[0] = re.sub(r"(?m)^This page shows \[`[^`]+`\]\([^)]+\)\.\s*", "", source[0], count=1)


def _write_generated(app: Sphinx) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the substitute set of Math500 says so on its page
        write_pages(HERE / "environments")
        write_commands(HERE / "reference" / "commands.md")


def setup(app: Sphinx) -> None:
    """Write the generated pages first, and hear docstrings."""
    app.connect("builder-inited", _write_generated)
    app.connect("source-read", _without_file)
    app.connect("autodoc-process-docstring", _rubrics, priority=100)
