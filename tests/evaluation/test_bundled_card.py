"""The model card of the bundled models: what it says first, its aims, and what it refuses."""

from __future__ import annotations

import json
import shutil
import warnings
from typing import Any

import pytest

from cola_agents.evaluation import bundled_card
from cola_agents.evaluation.bundled_card import write_card
from cola_agents.train.bundled import recipe
from cola_agents.train.bundled.settings import Recipe
from cola_agents.train.health import CodebookWarning
from cola_agents.train.options import StageConfig


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of bundled models of two steps a stage, with their controls, and the recipe."""
    folder = tmp_path_factory.mktemp("bundled")
    stage = StageConfig(steps=2, rows=1, length=64, warmup=1)
    small = Recipe(vocab_size=300, base=stage, world=stage, policy=stage)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", CodebookWarning)
        patch.setattr(recipe, "TOKENIZER_DOCUMENTS", 150)
        recipe.train_bundled(small, folder)
        recipe.train_controls(small, folder)
    return folder, small


@pytest.fixture
def measured(monkeypatch):
    """Figures of every model in place of episodes: the shares that a test sets, by the model's name."""
    figures: dict[str, dict[str, float]] = {}

    def made_up(path, latent, episodes):
        shares = dict.fromkeys([*bundled_card._SHARES, *bundled_card._OTHERS], 0.5)
        return {"parameters": 10, "fingerprint": "f", **shares, **figures.get(path.name, {})}

    monkeypatch.setattr(bundled_card, "_measured", made_up)
    return figures


def card(trained: Any, tmp_path: Any) -> str:
    folder, small = trained
    shutil.copytree(folder, tmp_path / "models")
    write_card(tmp_path / "models", small, episodes=100)
    return (tmp_path / "models" / "README.md").read_text()


def test_the_card_begins_with_where_codes_are_better_and_worse_before_rl(trained, measured, tmp_path):
    measured["cola"] = {"text_rooms": 0.8, "grammar": 0.3, "countdown": 0.51}
    text = card(trained, tmp_path)
    first = text[: text.index("## Models")]
    assert "codes are better in `CoLA-TextRooms-v0` games won: 0.800 against 0.500 (+0.300 ± " in first
    assert "codes are worse in stories in which every sentence is grammatical: 0.300 against 0.500" in first
    assert "Countdown" in first[first.index("not told apart") :]
    assert text.index("codes are better") < text.index("codes are worse")


def test_an_aim_is_met_where_both_models_meet_it(trained, measured, tmp_path):
    measured["cola"] = {"countdown": 0.1, "format_reward": 0.01}
    measured["base"] = {"countdown": 0.1, "format_reward": 0.06}
    text = card(trained, tmp_path)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    verdicts = {row[0]: row[-1] for row in rows if row[-1] in ("met", "missed")}
    assert [verdicts[name] for name in verdicts if "Countdown" in name] == ["met"]
    assert [verdicts[name] for name in verdicts if "format reward" in name] == ["missed"]
    assert len(verdicts) == 4


@pytest.mark.parametrize(("after", "verdict"), [(0.495, "is met"), (0.48, "is missed")])
def test_the_base_is_held_against_what_more_tokens_teach_it(after, verdict, trained, measured, tmp_path):
    measured["longer"] = {"cross_entropy": after}
    assert f"by {0.5 - after:.4f}, so this {verdict}" in card(trained, tmp_path)


def test_every_model_of_the_folder_is_measured_for_real(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(bundled_card, "HELD_OUT_BATCHES", 1)
    folder, small = trained
    shutil.copytree(folder, tmp_path / "models")
    shutil.rmtree(tmp_path / "models" / "longer")
    figures = write_card(tmp_path / "models", small, episodes=2)
    assert {"cola", "base", "fta"} <= set(figures)
    assert "longer" not in figures
    assert json.loads((tmp_path / "models" / "metrics.json").read_text())["episodes"] == 2
    assert set(figures["cpu_s"]) == {"base", "world", "policy"}


def test_a_latent_action_model_on_another_base_is_refused(trained, measured, tmp_path):
    folder, small = trained
    shutil.copytree(folder, tmp_path / "models")
    shutil.copytree(folder / "longer", tmp_path / "models" / "base", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"cola does not stand on .*base: .* differs"):
        write_card(tmp_path / "models", small, episodes=2)
    assert not (tmp_path / "models" / "metrics.json").exists()


def test_the_card_names_the_recipe_that_the_folder_holds(trained, measured, tmp_path):
    folder, small = trained
    shutil.copytree(folder, tmp_path / "models")
    figures = write_card(tmp_path / "models", Recipe(seed=9), episodes=100)
    assert figures["recipe"]["seed"] == small.seed
    assert figures["recipe"]["base"]["steps"] == small.base.steps
