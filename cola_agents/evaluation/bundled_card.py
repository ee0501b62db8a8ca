"""The model card of the bundled models: what they are made of and what was measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import Tensor

from cola_agents.common.files import write_json, write_whole
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_agents.decoding.loading import make_backbone
from cola_agents.evaluation.probe import probe
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.rollout import Rollout
from cola_agents.train.bundled.recipe import Recipe
from cola_envs import jsonl
from cola_envs.fields import TEXT
from cola_envs.jsonl import JsonObject
from cola_envs.tasks.substitute import NAME as SUBSTITUTE

MEASURED = 1024


def write_card(folder: Path, recipe: Recipe, *, episodes: int = MEASURED) -> JsonObject:
    """Measure both bundled models in ``folder`` and write ``README.md`` and ``metrics.json`` there.

    Raises:
        FileNotFoundError: where a model is not in ``folder``; before anything is measured.
    """
    for needed in ("cola/config.json", "cola/metrics.json", "base/config.json"):
        if not (folder / needed).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {needed}: the card is of a folder with cola/ and base/, which `cola "
                "pretrain bundled` writes"
            )
    figures: JsonObject = {**provenance(), "recipe": asdict(recipe)}
    for name, twin in (("cola", ""), ("base", "-Token")):
        figures[name] = _measured(folder / name, twin, episodes)
    figures["cola"]["codebook"] = jsonl.read_object(folder / "cola" / "metrics.json")
    write_json(folder / "metrics.json", figures, indent=1)
    write_whole(folder / "README.md", _card(figures).encode())
    return figures


def _measured(path: Path, twin: str, episodes: int) -> JsonObject:
    backbone = make_backbone(str(path), level="token" if twin else "latent")
    agent = GRPO(f"CoLA-Arithmetic{twin}-v0", num_envs=64, model=backbone)
    thinking = agent.evaluate(episodes, env_id=f"CoLA-Thinking{twin}-v0")
    rooms = agent.evaluate(episodes, env_id=f"CoLA-TextRooms{twin}-v0")
    countdown = agent.evaluate(episodes, env_id=f"CoLA-Countdown{twin}-v0")
    level_two = agent.evaluate(episodes, env_kwargs={"level": 2})
    plain = agent.evaluate(episodes)
    word_problems = agent.evaluate(
        episodes,
        env_id=f"CoLA-Math500{twin}-v0",
        split="train",
        env_kwargs={"levels": (1, 2), "max_tokens": 96},
    )
    return {
        "parameters": sum(p.numel() for p in backbone.model.parameters()),
        "fingerprint": backbone.fingerprint,
        **probe(agent, episodes=episodes).as_dict(),
        "arithmetic_level_2": _mean(level_two.episode_rewards),
        "thinks_when_told": _share(thinking, "<think>"),
        "thinks_when_not_told": _share(plain, "<think>"),
        "word_problems": _mean(word_problems.episode_rewards),
        "text_rooms": _mean(rooms.episode_rewards),
        "countdown": round(float(np.mean([info["correct"] for info in countdown.infos])), 4),
    }


def _share(rollout: Rollout, text: str) -> float:
    return round(float(np.mean([text in TEXT.of(info) for info in rollout.infos])), 4)


def _mean(rewards: Tensor) -> float:
    return round(rewards.mean().item(), 4)


_ROWS = {
    "arithmetic": "level-1 arithmetic, test split, sampled at temperature 1",
    "arithmetic_greedy": "the same, greedy",
    "arithmetic_level_2": "level-2 arithmetic, test split, sampled",
    "word_problems": f"generated word problems of levels 1 and 2 (`{SUBSTITUTE}`, train), sampled",
    "text_rooms": "`CoLA-TextRooms-v0` games won, test split, sampled",
    "countdown": "`CoLA-Countdown-v0` puzzles answered rightly, test split, sampled",
    "thinks_when_told": "`<think>` in samples of `CoLA-Thinking-v0`",
    "thinks_when_not_told": "`<think>` in samples of `CoLA-Arithmetic-v0`",
    "grammar": "stories in which every sentence is grammatical, sampled",
    "distinct_2": "distinct-2 of those stories",
    "cross_entropy": "held-out cross-entropy, nats per token (cola: composed, summed over the codes)",
}


def _verdicts(cola: JsonObject, base: JsonObject, codebook: JsonObject) -> str:
    """A sentence on which aims each model met."""
    sentences = []
    for name, model in (("cola", cola), ("base", base)):
        solved, thinks = model["arithmetic"], max(model["thinks_when_told"], model["thinks_when_not_told"])
        result = "below the aim" if solved < 0.3 else "above the aim" if solved > 0.8 else "within the aim"
        sentences.append(
            f"`{name}` solves {solved:.3f}, {result}, and thinks in at most {thinks:.3f} of samples"
        )
    gap = codebook["composed_ce"] - codebook["base_ce"]
    text = f"; {sentences[1]}. The composed cross-entropy is {gap:+.4f} nats from the base's."
    if base["arithmetic"] > 0.8:
        text += (
            " The base is above because it is fair: it read as many tokens more as the latent-action stages, "
            "and unlike theirs, all of its weights learned from them."
        )
    return sentences[0] + text


def _card(figures: JsonObject) -> str:
    cola, base, recipe = figures["cola"], figures["base"], figures["recipe"]
    codebook = cola["codebook"]
    measured = [[words, f"{cola[key]:.3f}", f"{base[key]:.3f}"] for key, words in _ROWS.items()]
    stages = []
    for name in ("base", "world", "policy"):
        stage = recipe[name]
        tokens = stage["steps"] * stage["rows"] * stage["length"]
        stages.append([name, stage["steps"], f"{tokens / 1e6:.2f} M", f"{stage['lr']:g}"])
    hardware, share = figures["hardware"], recipe["corpus"]
    return f"""# The bundled models

Two tiny models for learning, testing and demonstrating; they are good for nothing else.

- `cola` ({cola["parameters"]:,} parameters): a latent-action model with 64 codes. Base: Llama, 3 layers of width 96,
  3 heads, context 2,048. Inverse dynamics and policy of one layer each, two merge layers, readout `state`.
- `base` ({base["parameters"]:,} parameters): the same base LM trained further on the same corpus for as many tokens as
  the latent-action stages read. It is the fair start of a token-level arm.

Tokenizer: byte-level BPE of {recipe["vocab_size"]} entries; digits single; `<think>`, `</think>`, `<answer>`, `</answer>`
one token each. Positions beyond about 256 tokens were never trained.

## Corpus

Generated; no outside text. {share["arithmetic"]:.0%} of the documents are arithmetic in five answer styles (direct,
with a preface, in steps, in words, and rarely in thinking tags), {share["english"]:.0%} are stories in templated English
whose grammar can be checked, {share["countdown"]:.0%} are Countdown puzzles answered rightly in the same styles,
{share["rooms"]:.0%} are transcripts of TextRooms games (commands drawn at random, but for {share["rooms_skilled"]:.0%} of the games,
which are mostly played by a plan), and the rest are word problems (`{SUBSTITUTE}`, train) under the Math500 prompt.
Questions of the arithmetic and Countdown test splits, openings of test games and the substitute's test set do not
occur in it; a test proves it.

## Recipe

`cola pretrain bundled --out DIR --seed {recipe["seed"]}`, which is tokenizer, base, world (inverse dynamics and world model,
straight-through Gumbel at tau {recipe["codes"]["tau"]:g}, regularisers {recipe["codes"]["entropy"]:g} per position and
{recipe["codes"]["marginal"]:g} on the batch marginal), policy cloning, and the base's further training.

{table(["stage", "steps", "tokens", "peak lr"], stages)}

## Measured

Shares of {MEASURED} episodes. Seed {recipe["seed"]}; {hardware["cpu"]}, {hardware["threads"]} thread(s); figures in `metrics.json`.

{table(["", "cola", "base"], measured)}

Aimed at were 30 to 80 % of level-1 arithmetic (sampled), `<think>` in under 5 % of samples, and a composed
cross-entropy within .02 nats of the base's. {_verdicts(cola, base, codebook)}

Codebook, on {codebook["tokens"]:,} held-out tokens: cross-entropy of the base {codebook["base_ce"]:.4f}, of the world model
given the inverse dynamics' codes {codebook["world_ce"]:.4f}, composed {codebook["composed_ce"]:.4f}; perplexity
{codebook["codebook_perplexity"]:.1f} with {codebook["codes_used"]} of 64 codes in use; {codebook["distinct_tokens"]:.2f} distinct argmax
tokens per state; {codebook["reachability"]:.1%} of gold tokens reachable; policy entropy {codebook["policy_entropy"]:.2f} nats.

## Licence

Apache-2.0, like the project. Trained on generated text only.
"""
