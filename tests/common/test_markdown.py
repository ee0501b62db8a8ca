"""Tables in Markdown."""

import pytest

from cola_agents.common.markdown import table


def test_a_table_has_a_cell_for_every_column():
    assert (
        table(["arm", ""], [["latent", 0.5], ["", 1]]) == "| arm |  |\n|---|---|\n| latent | 0.5 |\n|  | 1 |"
    )
    assert table(["GiB", "a", "b"], [], numbers=True) == "| GiB | a | b |\n|---|---:|---:|"
    for row in (["latent"], ["latent", 1, 2]):
        with pytest.raises(ValueError, match="needs 2 cells"):
            table(["arm", "reward"], [row])


def test_what_a_cell_holds_does_not_break_the_table():
    assert table(["a|b"], [["x\n| y"]]).splitlines() == [r"| a\|b |", "|---|", r"| x \| y |"]
