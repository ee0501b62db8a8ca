"""Semantic diversity: how different are texts that go on from one prefix, and at what cost in grammar?

The procedure is the one that CoLA's authors describe in the README of their code: N prefixes of held-out
text, M continuations of each, cosine similarity of the embeddings of each continuation with each other of
its prefix, averaged within and then over prefixes; the reciprocal is their *quality diversity*. Theirs embed
with BGE-M3; here the default is TF-IDF of n-grams, which needs no download and knows words, not meanings. Any
function from texts to vectors may take its place.

Nonsense is diverse too, so arms are compared at equal temperature and at *matched validity*: each arm plays a
grid of temperatures, and its diversity is interpolated to one share of grammatical texts.

Shapes: N prefixes, M texts of each, G temperatures.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import RESULTS, Commands, options
from benchmarks.compare.arms import ARMS
from benchmarks.credit.similarity import Embed, NGramEmbedding, mean_similarity
from benchmarks.statistics import interval_text
from cola_agents.common.files import write_json, write_whole
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_agents.decoding.loading import BUNDLED
from cola_agents.evaluation.probe import distinct
from cola_agents.evaluation.run import Uniform
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_agents.rl.rows import make_rows
from cola_agents.train.bundled.english import check_story, story
from cola_envs.seeds import derived_seed
from cola_envs.task import Turn

TEMPERATURES = (0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0)
#: Shares of grammatical texts at which arms are compared.
VALIDITIES = (0.95, 0.9, 0.85)
#: Arms whose codes last several tokens.
SPANS = ("latent-span-4", "latent-span-8")
#: What is interpolated; more is more diverse.
MEASURES = ("diversity", "distinct_2", "distinct_3", "unique")

# -------------------------------------------------------------------- texts


class Continuation:
    """Continue a freshly drawn story from its first words; reward 1.0 if all of it is grammatical.

    Prompt: ``Story:`` and the first ``words`` words of a story of
    :func:`cola_agents.train.bundled.english.story`. One segment, ended by the end of text or the budget; the
    prefix and what was written are judged together, and must hold at least one complete sentence.

    Args:
        words: of the prefix.
    """

    stop: tuple[str, ...] = ()

    def __init__(self, words: int = 3) -> None:
        self.words = words

    def reset(self, rng: np.random.Generator) -> str:
        whole = story(random.Random(int(rng.integers(2**62))))
        self.prefix = " ".join(whole.split(" ")[: 1 + self.words])
        return self.prefix

    def step(self, text: str) -> Turn:
        verdicts = check_story(self.prefix + text)
        return Turn(reward=float(bool(verdicts) and all(verdicts)), info={"prefix": self.prefix})


@dataclass(frozen=True)
class Speaker:
    """A policy that writes texts.

    Attributes:
        name: in results.
        backbone: its model and action space; of an agent ``agent.backbone``.
        policy: as in :func:`cola_agents.collect`; of an agent ``agent.actor``; None for the model's own.
        world: ``"argmax"``, or ``"sampled"``: the world model's token is drawn at the codes' temperature.
        temperatures: that it writes at; None for those of the run. A single one is compared with no other arm
            at matched validity.
    """

    name: str
    backbone: Any
    policy: Any = None
    world: Literal["argmax", "sampled"] = "argmax"
    temperatures: tuple[float, ...] | None = None

    def write(self, temperature: float, *, prefixes: int, samples: int, settings: Mapping[str, Any]) -> Any:
        """``samples`` episodes of each prefix, side by side: a :class:`~cola_agents.rl.rollout.Rollout`."""
        env_id = "CoLA-Text-v0" if self.backbone.level == "latent" else "CoLA-Text-Token-v0"
        made = make_rows(
            env_id,
            min(settings["num_envs"], prefixes * samples),
            model=self.backbone,
            max_tokens=settings["max_tokens"],
            world_temperature=temperature if self.world == "sampled" else 0.0,
            task=lambda: Continuation(settings["prefix_words"]),
        )
        try:
            problems = [settings["seed"] + prefix for prefix in range(prefixes) for _ in range(samples)]
            seeds = [derived_seed(problem, place % samples) for place, problem in enumerate(problems)]
            policy = self.policy or InitialPolicy()
            return collect(
                made.episodes, policy, seeds=seeds, problem_seeds=problems, temperature=temperature
            )
        finally:
            made.close()


def speakers(models: Path = BUNDLED) -> list[Speaker]:
    """The arms that are compared, and the two controls of the official procedure, whose actions are uniform.

    Args:
        models: a folder of pre-trained models, as :meth:`benchmarks.compare.arms.Arm.backbone` takes it. If
            it has codes that last several tokens (``benchmarks models --variants``), they are compared too.
    """
    latent, token = (ARMS[name].backbone(models) for name in ("latent", "token"))
    spans = [
        Speaker(f"{ARMS[name].says}, {world} world", ARMS[name].backbone(models), world=world)
        for name in SPANS
        if (models / ARMS[name].model).is_dir()
        for world in ("argmax", "sampled")
    ]
    return [
        Speaker("latent, argmax world", latent),
        Speaker("latent, sampled world", latent, world="sampled"),
        *spans,
        Speaker("token", token),
        Speaker("uniform codes, argmax world", latent, Uniform(latent.action_mask()), temperatures=(1.0,)),
        Speaker("uniform tokens", token, Uniform(token.action_mask()), temperatures=(1.0,)),
    ]


# -------------------------------------------------------------------- measuring


def measures(texts: Sequence[str], valid: Sequence[bool], embed: Embed) -> dict[str, float]:
    """Figures of the continuations of one prefix."""
    similarity = mean_similarity(embed(texts))
    return {
        "validity": float(np.mean(valid)),
        "diversity": 1.0 - similarity,
        "distinct_2": distinct(list(texts), 2),
        "distinct_3": distinct(list(texts), 3),
        "unique": len(set(texts)) / len(texts),
    }


def diversity(
    arms: Sequence[Speaker],
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    validities: Sequence[float] = VALIDITIES,
    reference: str = "token",
    prefixes: int = 32,
    samples: int = 16,
    prefix_words: int = 3,
    max_tokens: int = 64,
    num_envs: int = 128,
    embed: Embed | None = None,
    seed: int = 30_000,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Diversity of every arm at every temperature, and of all arms at matched validity; ready for JSON.

    Args:
        arms: who writes.
        temperatures: of the policy; more than 0.
        validities: shares of grammatical texts to interpolate to.
        reference: name of the arm that others are compared with.
        prefixes, samples: N and M. Figures depend on M: only those of one M are comparable.
        prefix_words: of the prefix.
        max_tokens: of a continuation.
        embed: texts to vectors [M, F]; None for :class:`NGramEmbedding`.
        seed: of the prefixes; every arm is given the same.
        resamples: of the bootstrap over prefixes.

    Raises:
        ValueError: for counts below 2, temperatures that are not positive, or a reference that is no arm.
    """
    if prefixes < 2 or samples < 2:
        raise ValueError(f"prefixes and samples must be at least 2, got {prefixes} and {samples}")
    if not all(t > 0 for arm in arms for t in arm.temperatures or temperatures):
        raise ValueError(f"temperatures must be positive, got {list(temperatures)}: at 0 all texts are one")
    if reference not in [arm.name for arm in arms]:
        raise ValueError(f"reference {reference!r} is none of {', '.join(arm.name for arm in arms)}")
    embed = embed or NGramEmbedding()
    settings = {"seed": seed, "prefix_words": prefix_words, "max_tokens": max_tokens, "num_envs": num_envs}
    measured, points = [], {}
    for arm in arms:
        grid = sorted(arm.temperatures or temperatures)
        by_prefix, rows = [], []
        for temperature in grid:
            rollout = arm.write(temperature, prefixes=prefixes, samples=samples, settings=settings)
            groups = [rollout.infos[at : at + samples] for at in range(0, len(rollout), samples)]
            each = [
                measures([info["text"] for info in group], [info["success"] for info in group], embed)
                for group in groups
            ]
            by_prefix.append({name: np.array([figures[name] for figures in each]) for name in each[0]})
            means = {name: float(values.mean()) for name, values in by_prefix[-1].items()}
            rows.append(
                {
                    "temperature": temperature,
                    **{name: round(value, 4) for name, value in means.items()},
                    "quality_diversity": _reciprocal(1.0 - means["diversity"]),
                    "tokens": round(rollout.num_actions / len(rollout), 2),
                    "example": groups[0][0]["prefix"] + groups[0][0]["text"],
                }
            )
        measured.append({"name": arm.name, "fingerprint": arm.backbone.fingerprint, "points": rows})
        if len(grid) > 1:
            points[arm.name] = by_prefix
    return {
        **provenance(),
        "embedding": getattr(embed, "name", getattr(embed, "__qualname__", type(embed).__qualname__)),
        "prefixes": prefixes,
        "samples": samples,
        **settings,
        "arms": measured,
        "matched": [
            {
                "validity": validity,
                "reference": reference,
                "arms": matched_at(points, validity, reference, resamples),
            }
            for validity in validities
            if points  # one temperature alone has no curve
        ],
    }


def _reciprocal(similarity: float) -> float | None:
    """The official figure, 1 / similarity; None where texts have nothing in common."""
    return round(1 / similarity, 4) if similarity > 0 else None


# -------------------------------------------------------------------- matched validity


def at_validity(validity: np.ndarray, values: np.ndarray, target: float) -> np.ndarray:
    """The measures at which a share ``target`` of the texts is grammatical; NaN beyond the grid.

    Validity falls as temperature rises, but for noise: neighbours that do not fall are pooled into their
    means (isotonic regression) before it is interpolated between temperatures.

    Args:
        validity: by rising temperature, [G].
        values: measures there, [G, ...].
    """
    shares: list[float] = []
    heights: list[np.ndarray] = []
    sizes: list[int] = []
    for share, height in zip(validity.tolist(), np.asarray(values, dtype=float), strict=True):
        size = 1
        while shares and share >= shares[-1]:
            other = sizes.pop()
            share = (shares.pop() * other + share * size) / (other + size)
            height = (heights.pop() * other + height * size) / (other + size)
            size += other
        shares.append(share)
        heights.append(height)
        sizes.append(size)
    if not shares[-1] <= target <= shares[0]:
        return np.full(heights[0].shape, np.nan)
    right = next(place for place, share in enumerate(shares) if share <= target)
    if shares[right] == target:
        return heights[right]
    part = (shares[right - 1] - target) / (shares[right - 1] - shares[right])
    return heights[right - 1] + part * (heights[right] - heights[right - 1])


def matched_at(
    points: Mapping[str, Sequence[Mapping[str, np.ndarray]]], target: float, reference: str, resamples: int
) -> dict[str, Any]:
    """Measures of each arm at one validity and their differences to the reference, with intervals of 95 %.

    The bootstrap resamples prefixes, the same for all arms. None for an arm that is never so valid, or always
    more so; where the reference is such an arm, no other has a ``difference``.

    Args:
        points: per arm, by rising temperature, ``"validity"`` and :data:`MEASURES` of each prefix, [N].
    """
    count = len(next(iter(points.values()))[0]["validity"])
    drawn = np.random.default_rng(0).integers(count, size=(resamples, count))
    picks = np.concatenate([np.arange(count)[None], drawn])  # the first is what was seen
    curves: dict[str, np.ndarray] = {}
    for name, grid in points.items():
        validity = np.stack([np.asarray(point["validity"])[picks].mean(1) for point in grid], 1)
        values = np.stack([[np.asarray(point[m])[picks].mean(1) for m in MEASURES] for point in grid])
        pairs = zip(validity, values.transpose(2, 0, 1), strict=True)
        curves[name] = np.stack([at_validity(share, value, target) for share, value in pairs])
    out: dict[str, Any] = {}
    for name, curve in curves.items():
        out[name] = _at_validity(curve)
        if out[name] is not None and reference in curves and name != reference:
            apart = _at_validity(curve - curves[reference])
            out[name].update({} if apart is None else {"difference": apart})
    return out


def _at_validity(curve: np.ndarray) -> dict[str, Any] | None:
    """The first row and the interval of the others, [1 + resamples, measures], where they are defined."""
    if np.isnan(curve[0]).any():
        return None
    defined = curve[1:][~np.isnan(curve[1:]).any(1)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975], axis=0)
    point: dict[str, Any] = {
        name: {"mean": round(m, 4), "low": round(a, 4), "high": round(b, 4)}
        for name, m, a, b in zip(MEASURES, curve[0].tolist(), low.tolist(), high.tolist(), strict=True)
    }
    return {**point, "reached": round(len(defined) / (len(curve) - 1), 4)}


# -------------------------------------------------------------------- reporting


def diversity_table(results: Mapping[str, Any]) -> str:
    """Two Markdown tables: equal temperature, and matched validity."""
    equal = []
    for arm in results["arms"]:
        for point in arm["points"]:
            reciprocal = point["quality_diversity"]
            row = [arm["name"], f"{point['temperature']:g}"]
            row += [f"{point[name]:.3f}" for name in ("validity", "diversity")]
            row.append("no overlap" if reciprocal is None else f"{reciprocal:.2f}")
            row += [f"{point[name]:.3f}" for name in ("distinct_2", "distinct_3", "unique")]
            equal.append([*row, f"{point['tokens']:.1f}"])
    reference = results["matched"][0]["reference"] if results["matched"] else None
    less, at_one = f"less {reference}'s", []
    for matched in results["matched"]:
        for name, record in matched["arms"].items():
            cells = ["at none of its temperatures", "", "", ""]
            if record is not None:
                apart = record.get("difference")
                cells = []
                for measure in ("diversity", "distinct_2"):
                    cells += [interval_text(record[measure]), interval_text(apart[measure]) if apart else ""]
            at_one.append([f"{matched['validity']:g}", name, *cells])
    equal_head = "arm, T, grammatical, diversity, 1 / similarity, distinct-2, distinct-3, unique, tokens"
    note = (
        f"{results['prefixes']} prefixes of {results['prefix_words']} words, {results['samples']} "
        "continuations of each. Diversity: 1 less the mean cosine similarity within a prefix; embedding: "
        f"{results['embedding']}. distinct-n and unique are within a prefix too, so that they depend on the "
        "number of continuations. Intervals of 95 % resample prefixes."
    )
    matched_table = table(["grammatical", "arm", "diversity", less, "distinct-2", less], at_one)
    return "\n\n".join([table(equal_head.split(", "), equal), matched_table, note])


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Diversity against validity, a curve an arm, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("diversity", "distinct_2"), strict=True):
        for arm in results["arms"]:
            x = [point["validity"] for point in arm["points"]]
            axes.plot(x, [point[measure] for point in arm["points"]], marker="o", label=arm["name"])
        axes.set(xlabel="share of grammatical texts", ylabel=measure.replace("_", "-"), ylim=(0, None))
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def add(commands: Commands) -> None:
    """Add the command to ``python -m benchmarks``."""
    parser = commands.add_parser(
        "diversity",
        help="how different texts of one prefix are, at equal temperature and at matched validity",
    )
    parser.add_argument("--temperatures", type=float, nargs="+", default=list(TEMPERATURES))
    parser.add_argument("--validities", type=float, nargs="+", default=list(VALIDITIES))
    parser.add_argument("--prefixes", type=int, default=32)
    parser.add_argument("--samples", type=int, default=16, help="continuations of each prefix")
    parser.add_argument("--models", type=Path, default=BUNDLED, help="a seed's folder of `benchmarks models`")
    parser.add_argument("--seed", type=int, default=30_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "diversity.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    names = ("temperatures", "validities", "prefixes", "samples", "seed")
    results = diversity(speakers(arguments.models), **options(arguments, *names))
    write_json(arguments.out, results, indent=1)
    page = diversity_table(results)
    write_whole(arguments.out.with_suffix(".md"), (page + "\n").encode())
    draw(results, arguments.out.with_suffix(".png"))
    print(page)
