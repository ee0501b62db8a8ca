"""Modules can still be imported under the names that they had before they were put in folders."""

import importlib
import sys

import pytest

from cola_agents.moved import NEW_NAMES


@pytest.mark.parametrize("old", NEW_NAMES)
def test_a_module_is_found_under_its_old_name_with_a_warning(old, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {NEW_NAMES[old]}"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(NEW_NAMES[old])


def test_names_come_from_a_module_by_its_old_name(monkeypatch):
    monkeypatch.delitem(sys.modules, "cola_agents.losses", raising=False)
    with pytest.warns(DeprecationWarning, match="cola_agents.rl.losses"):
        from cola_agents.losses import group_advantages
    from cola_agents.rl import losses

    assert group_advantages is losses.group_advantages


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        importlib.import_module("cola_agents.nowhere")
