"""The Python of a page runs as it stands there."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["look.md", "search.md"])
def test_the_code_of_a_page_runs_in_its_order(page, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()
