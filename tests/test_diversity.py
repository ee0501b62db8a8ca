"""Semantic diversity: its embedding, its tasks, and what is said at matched validity."""

from __future__ import annotations

import argparse
import json
import random
import shutil

import numpy as np
import pytest

from benchmarks.credit import diversity as module
from benchmarks.credit.diversity import (
    MEASURES,
    Continuation,
    Speaker,
    at_validity,
    diversity,
    diversity_table,
    measures,
    speakers,
)
from benchmarks.credit.similarity import NGramEmbedding, mean_similarity
from cola_agents.evaluation.run import Uniform
from cola_agents.rl.collecting import InitialPolicy
from cola_agents.train.bundled.english import story
from cola_envs.testing import check_task
from tests import tiny

STORY = "The small cat sees a red ball. It sleeps near the river."


@pytest.fixture(scope="module")
def embed() -> NGramEmbedding:
    return NGramEmbedding([story(random.Random(seed)) for seed in range(50)])


# ------------------------------------------------------------------ similarity


def test_identical_texts_have_no_diversity_and_disjoint_ones_all_of_it(embed):
    same = measures([STORY] * 4, [True] * 4, embed)
    assert same["diversity"] == pytest.approx(0.0, abs=1e-12)
    assert same["unique"] == 0.25
    apart = measures(["dog runs", "cup blue", "sixty 9"], [False, True, False], embed)
    assert apart["diversity"] == pytest.approx(1.0)
    assert (apart["unique"], apart["distinct_2"]) == (1.0, 1.0)
    assert apart["validity"] == pytest.approx(1 / 3)


def test_order_capitals_and_punctuation_do_not_matter(embed):
    texts = [story(random.Random(seed)) for seed in range(6)]
    once = mean_similarity(embed(texts))
    assert 0.0 < once < 1.0
    assert mean_similarity(embed(texts[::-1])) == pytest.approx(once)
    assert mean_similarity(embed(["A dog runs.", "a DOG runs"])) == pytest.approx(1.0)


def test_texts_without_words_are_like_one_another_alone(embed):
    assert mean_similarity(embed(["", "..."])) == pytest.approx(1.0)
    assert mean_similarity(embed(["", STORY])) == pytest.approx(0.0)


def test_similarity_is_the_mean_over_pairs():
    vectors = np.array([[3.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    half = 1 / np.sqrt(2)
    assert mean_similarity(vectors) == pytest.approx((half + half + 0.0) / 3)
    for bad in (vectors[:1], np.zeros((2, 3)), np.array([[1.0], [np.nan]])):
        with pytest.raises(ValueError, match="at least two vectors"):
            mean_similarity(bad)


def test_a_rare_word_in_common_counts_for_more_than_a_frequent_one():
    known = NGramEmbedding(["the cat", "the dog", "the queen"])
    frequent, rare = known(["the xyz", "the uvw"]), known(["cat xyz", "cat uvw"])
    assert mean_similarity(rare) > mean_similarity(frequent) > 0


# ------------------------------------------------------------------ the task


def test_the_task_conforms_and_judges_prefix_and_text_together():
    task = Continuation(words=3)
    check_task(lambda: Continuation(3))
    prefix = task.reset(np.random.default_rng(0))
    assert len(prefix.split(" ")) == 4
    assert prefix == Continuation(3).reset(np.random.default_rng(0))
    task.prefix = "Story: The small cat"
    assert task.step(" sleeps at night.").reward == 1.0
    assert task.step(" sleep at night.").reward == 0.0
    assert task.step(" sleeps").reward == 0.0  # no sentence is complete
    assert task.step(" sleeps at night. They run").reward == 1.0  # what the budget cut is passed over


# ------------------------------------------------------------------ matched validity


def test_a_measure_is_interpolated_to_a_validity():
    validity, values = np.array([1.0, 0.9, 0.5]), np.array([[0.1], [0.2], [0.6]])
    assert at_validity(validity, values, 0.95) == pytest.approx([0.15])
    assert at_validity(validity, values, 0.6) == pytest.approx([0.5])
    assert at_validity(validity, values, 0.9) == pytest.approx([0.2])
    assert at_validity(validity, values, 1.0) == pytest.approx([0.1])
    assert np.isnan(at_validity(validity, values, 0.4)).all()
    assert np.isnan(at_validity(validity[1:], values[1:], 0.95)).all()


def test_validities_that_do_not_fall_are_pooled():
    # .8 and .9 become .85 with the mean of their values; so do three in a row that rise.
    assert at_validity(np.array([1.0, 0.8, 0.9, 0.5]), np.array([0.0, 0.2, 0.4, 1.0]), 0.85) == (
        pytest.approx(0.3)
    )
    flat = at_validity(np.array([0.6, 0.7, 0.8, 0.3]), np.array([1.0, 2.0, 3.0, 9.0]), 0.5)
    assert flat == pytest.approx(5.5)  # half-way from .7 (2.0) to .3 (9.0)


def test_arms_are_told_apart_at_one_validity_by_a_bootstrap_over_prefixes():
    rng = np.random.default_rng(0)

    def arm(lift: float, steps: tuple[float, ...]) -> list[dict[str, np.ndarray]]:
        return [
            {
                "validity": np.clip(share + 0.02 * rng.normal(size=40), 0, 1),
                **{name: 1 - share + lift + 0.02 * rng.normal(size=40) for name in MEASURES},
            }
            for share in steps
        ]

    points = {
        "token": arm(0.0, (0.98, 0.9, 0.7)),
        "more": arm(0.2, (0.98, 0.8, 0.6)),
        "wild": arm(0, (0.5, 0.3)),
    }
    told = module.matched_at(points, 0.85, "token", 200)
    assert told["wild"] is None
    assert "difference" not in told["token"]
    assert told["token"]["diversity"]["mean"] == pytest.approx(0.15, abs=0.02)
    apart = told["more"]["difference"]["diversity"]
    assert apart["low"] > 0.1
    assert apart["high"] < 0.3
    assert apart["low"] < apart["mean"] < apart["high"]
    assert told["more"]["reached"] == 1.0
    assert "difference" not in module.matched_at(points, 0.85, "wild", 200)["more"]


# ------------------------------------------------------------------ the whole


@pytest.fixture
def arms(latent_backbone, token_backbone) -> list[Speaker]:
    return [
        Speaker("latent", latent_backbone, InitialPolicy()),
        Speaker("sampled", latent_backbone, world="sampled"),
        Speaker("token", token_backbone),
        Speaker("uniform", token_backbone, Uniform(token_backbone.action_mask()), temperatures=(1.0,)),
    ]


def short(arms, **changed):
    settings = {"temperatures": (0.5, 1.5), "prefixes": 2, "samples": 3, "max_tokens": 6, "resamples": 20}
    return diversity(arms, **{**settings, **changed})


def test_every_arm_writes_from_the_same_prefixes_and_the_figures_repeat(arms):
    seen = []

    def embed(texts):
        seen.append(list(texts))
        return NGramEmbedding([STORY])(texts)

    results = short(arms, embed=embed)
    assert [arm["name"] for arm in results["arms"]] == ["latent", "sampled", "token", "uniform"]
    assert [len(arm["points"]) for arm in results["arms"]] == [2, 2, 2, 1]
    assert len(seen) == 7 * 2
    assert all(len(texts) == 3 for texts in seen)
    first = [point["example"][:12] for arm in results["arms"] for point in arm["points"]]
    assert len(set(first)) == 1, "prefixes of the arms differ"
    assert set(results["matched"][0]["arms"]) == {"latent", "sampled", "token"}
    again = short(arms[:3], embed=embed)
    assert again["arms"] == results["arms"][:3]
    json.dumps(results)
    assert "| uniform | 1 |" in diversity_table(results)


def test_a_sampled_world_is_drawn_at_the_temperature_of_the_codes(latent_backbone, monkeypatch):
    made = []
    original = module.make_rows
    monkeypatch.setattr(
        module, "make_rows", lambda *a, **k: made.append(k["world_temperature"]) or original(*a, **k)
    )
    short([Speaker("token", latent_backbone, world="sampled"), Speaker("argmax", latent_backbone)])
    assert made == [0.5, 1.5, 0.0, 0.0]


def test_codes_that_last_several_tokens_write_where_the_folder_has_them(tmp_path):
    models = tiny.write_models(tmp_path, seeds=(0,)) / "0"
    shutil.rmtree(models / "span-8")
    spans = [arm for arm in speakers(models) if "4 tokens" in arm.name]
    assert [(arm.world, arm.backbone.model.config.span) for arm in spans] == [("argmax", 4), ("sampled", 4)]
    assert len(speakers(models)) == 5 + len(spans)
    settings = {"seed": 1, "prefix_words": 3, "max_tokens": 8, "num_envs": 4}
    for arm in spans:
        rollout = arm.write(1.0, prefixes=2, samples=2, settings=settings)
        assert all(len(info["text"]) > 0 for info in rollout.infos)
        assert int(rollout.mask.sum(1).max()) <= 2, "a code of four tokens, and eight tokens at most"


def test_one_temperature_has_figures_and_nothing_at_matched_validity(arms):
    results = diversity(arms, temperatures=[1.0], prefixes=2, samples=2, max_tokens=8)
    assert [len(arm["points"]) for arm in results["arms"]] == [1] * len(arms)
    assert results["matched"] == []
    assert "token" in diversity_table(results)


def test_the_command_writes_figures_table_and_plot(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    module.add(parser.add_subparsers())
    out = tmp_path / "diversity.json"
    few = "--prefixes 2 --samples 2 --temperatures 0.5 2 --validities 0.8"
    arguments = parser.parse_args(["diversity", *few.split(), "--out", str(out)])
    arguments.run(arguments)
    results = json.loads(out.read_text())
    names = [arm["name"] for arm in results["arms"]]
    assert names[:3] == ["latent, argmax world", "latent, sampled world", "token"]
    cool, hot = results["arms"][2]["points"]
    assert cool["validity"] > hot["validity"]
    assert cool["example"].startswith("Story: ")
    assert out.with_suffix(".md").read_text() == capsys.readouterr().out
    assert out.with_suffix(".png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prefixes": 1}, "at least 2"),
        ({"samples": 1}, "at least 2"),
        ({"temperatures": (0.0, 1.0)}, "positive"),
        ({"reference": "nobody"}, "none of latent"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(arms, changed, message):
    with pytest.raises(ValueError, match=message):
        short(arms, **changed)
