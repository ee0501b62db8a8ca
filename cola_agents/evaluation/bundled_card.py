"""The model card of the bundled models: what they are made of, and what was measured of them."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from cola_agents.common.files import write_json, write_whole
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_agents.decoding.loading import make_backbone
from cola_agents.evaluation.probe import probe
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.rollout import Rollout
from cola_agents.train.bundled.recipe import CONTROLS, RECIPE
from cola_agents.train.bundled.settings import Recipe
from cola_envs import jsonl
from cola_envs.fields import TEXT
from cola_envs.jsonl import JsonObject
from cola_envs.tasks.substitute import NAME as SUBSTITUTE

MEASURED = 1024
#: Of 2,048 tokens each, for the cross-entropy: two bases differ by hundredths of a nat.
HELD_OUT_BATCHES = 24
MODELS = ("cola", "base")
#: Names of the latent-action models among them.
_LATENT = ("cola", "fta")


def write_card(folder: Path, recipe: Recipe, *, episodes: int = MEASURED) -> JsonObject:
    """Measure the models in ``folder``, controls included, and write ``README.md`` and ``metrics.json`` there.

    Args:
        recipe: of models whose folder does not hold it.

    Raises:
        FileNotFoundError: where one of the two bundled models is not in ``folder``; before anything is
            measured.
        ValueError: where the base in ``cola`` is not ``base``.
    """
    for needed in ("cola/config.json", "cola/metrics.json", "base/config.json"):
        if not (folder / needed).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {needed}: the card is of a folder with cola/ and base/, which `cola "
                "pretrain bundled` writes"
            )
    _check_one_base(folder)
    held = folder / RECIPE
    described = jsonl.read_object(held) if held.is_file() else asdict(recipe)
    figures: JsonObject = {**provenance(), "recipe": described, "episodes": episodes}
    for name in (*MODELS, *CONTROLS):
        if (folder / name / "config.json").is_file():
            figures[name] = _measured(folder / name, name in _LATENT, episodes)
            if name in _LATENT:
                figures[name]["codebook"] = jsonl.read_object(folder / name / "metrics.json")
    figures["cpu_s"] = {
        stage: cpu_s
        for stage, path in _LOGS.items()
        if (cpu_s := _cpu_seconds(folder / path, stage)) is not None
    }
    write_json(folder / "metrics.json", figures, indent=1)
    write_whole(folder / "README.md", _card(figures).encode())
    return figures


#: Stage, as its log names it -> that log.
_LOGS = {
    "base": "base/log.jsonl",
    "world": "stages/world/log.jsonl",
    "policy": "cola/log.jsonl",
}


def _cpu_seconds(log: Path, stage: str) -> float | None:
    """CPU seconds of a stage by its log; None where there is no log."""
    if not log.is_file():
        return None
    records = [record for _, record in jsonl.records(log, lambda record, line: None)]
    return next((record["cpu_s"] for record in reversed(records) if record["stage"] == stage), None)


def _check_one_base(folder: Path) -> None:
    inside = load_file(folder / "cola" / "model.safetensors")
    base = load_file(folder / "base" / "model.safetensors")
    for name, weight in base.items():
        within = inside.get(name.replace("model.", "base.", 1) if name.startswith("model.") else name)
        if within is None or not weight.equal(within):
            raise ValueError(
                f"{folder / 'cola'} does not stand on {folder / 'base'}: {name} differs. Both are written by "
                "one `cola pretrain bundled`"
            )


def _measured(path: Path, latent: bool, episodes: int) -> JsonObject:
    twin = "" if latent else "-Token"
    backbone = make_backbone(str(path), level="latent" if latent else "token")
    agent = GRPO(f"CoLA-Arithmetic{twin}-v0", num_envs=64, model=backbone)
    thinking = agent.evaluate(episodes, env_id=f"CoLA-Thinking{twin}-v0")
    countdown = agent.evaluate(episodes, env_id=f"CoLA-Countdown{twin}-v0")
    plain = agent.evaluate(episodes)
    word_problems = agent.evaluate(
        episodes,
        env_id=f"CoLA-Math500{twin}-v0",
        split="train",
        env_kwargs={"levels": (1, 2), "max_tokens": 96},
    )
    figures: JsonObject = {
        "parameters": sum(p.numel() for p in backbone.model.parameters()),
        "fingerprint": backbone.fingerprint,
        **probe(agent, episodes=episodes, num_batches=HELD_OUT_BATCHES).as_dict(),
        "format_reward": _mean(thinking.episode_rewards),
        "thinks_when_told": _share(thinking, "<think>"),
        "thinks_when_not_told": _share(plain, "<think>"),
        "word_problems": _mean(word_problems.episode_rewards),
        "countdown": round(float(np.mean([info["correct"] for info in countdown.infos])), 4),
    }
    for name, greedy in (("", False), ("_greedy", True)):
        level_two = agent.evaluate(episodes, env_kwargs={"level": 2}, greedy=greedy)
        rooms = agent.evaluate(episodes, env_id=f"CoLA-TextRooms{twin}-v0", greedy=greedy)
        figures[f"arithmetic_level_2{name}"] = _mean(level_two.episode_rewards)
        figures[f"text_rooms{name}"] = _mean(rooms.episode_rewards)
    agent.close()
    return figures


def _share(rollout: Rollout, text: str) -> float:
    return round(float(np.mean([text in TEXT.of(info) for info in rollout.infos])), 4)


def _mean(rewards: Tensor) -> float:
    return round(rewards.mean().item(), 4)


#: Shares of episodes, by what the card calls them: more is better, but for the last three.
_SHARES = {
    "arithmetic_level_2": "level-2 arithmetic, test split, sampled at temperature 1",
    "arithmetic_level_2_greedy": "the same, greedy",
    "text_rooms": "`CoLA-TextRooms-v0` games won, test split, sampled",
    "text_rooms_greedy": "the same, greedy",
    "countdown": "`CoLA-Countdown-v0` puzzles answered rightly, test split, sampled",
    "arithmetic": "level-1 arithmetic, test split, sampled",
    "arithmetic_greedy": "the same, greedy",
    "word_problems": f"generated word problems of levels 1 and 2 (`{SUBSTITUTE}`, train), sampled",
    "grammar": "stories in which every sentence is grammatical, sampled",
    "format_reward": "format reward of `CoLA-Thinking-v0`, sampled",
    "thinks_when_told": "`<think>` in samples of `CoLA-Thinking-v0`",
    "thinks_when_not_told": "`<think>` in samples of `CoLA-Arithmetic-v0`",
}
_OTHERS = {
    "distinct_2": "distinct-2 of the stories",
    "cross_entropy": "held-out cross-entropy, nats per token (codes: composed, summed over the codes)",
}
_COMPARED = tuple(_SHARES)[:-3]
#: Shares before RL that leave a task room to learn, of both arms: lowest and highest.
_AIMS = {
    "arithmetic_level_2": (0.3, 0.7),
    "text_rooms": (0.3, 0.7),
    "countdown": (0.05, 0.2),
    "format_reward": (0.0, 0.05),
}
#: What training on for as many tokens as the stages read may lower the held-out cross-entropy by, in nats a
#: token, for the base to count as one that more of the corpus teaches little.
SATURATED = 0.01


def _before_rl(cola: JsonObject, base: JsonObject, episodes: int) -> str:
    """Where codes are better or worse than tokens of the same base, in words."""
    lines, alike = [], []
    for key in _COMPARED:
        codes, tokens = cola[key], base[key]
        margin = 1.96 * math.sqrt((codes * (1 - codes) + tokens * (1 - tokens)) / episodes)
        name = _name_of(key)
        if abs(codes - tokens) <= margin:
            alike.append(name)
        else:
            verdict = "better" if codes > tokens else "worse"
            gap = f"{codes - tokens:+.3f} ± {margin:.3f}"
            lines.append(f"- codes are {verdict} in {name}: {codes:.3f} against {tokens:.3f} ({gap})")
    lines.append(f"- not told apart: {'; '.join(alike)}" if alike else "- everything is told apart")
    return "\n".join(lines)


def _name_of(key: str) -> str:
    """What the card calls a share where it stands outside the table."""
    words = _SHARES[key.removesuffix("_greedy")]
    for condition in (", test split", ", sampled"):
        words = words.partition(condition)[0]
    return words + (" (greedy)" if key.endswith("_greedy") else "")


def _aims(figures: JsonObject) -> str:
    """A row for each aim: what was aimed at, and whether both models are within it."""
    rows = []
    for key, (lowest, highest) in _AIMS.items():
        within = [f"{figures[name][key]:.3f}" for name in MODELS]
        met = all(lowest <= figures[name][key] <= highest for name in MODELS)
        rows.append([_name_of(key), f"{lowest:.2f} to {highest:.2f}", *within, "met" if met else "missed"])
    return table(["share before RL", "aim", "cola", "base", ""], rows)


def _saturation(figures: JsonObject) -> str:
    """By how much the base still learns, in words; empty without the control."""
    if "longer" not in figures:
        return ""
    before, after = figures["base"]["cross_entropy"], figures["longer"]["cross_entropy"]
    met = "is met" if before - after <= SATURATED else "is missed"
    return (
        f"The base was to be trained until further training on as many tokens as the stages read (`longer`) "
        f"would lower its held-out cross-entropy by at most {SATURATED:g} nats a token: it lowers it from "
        f"{before:.4f} to {after:.4f}, by {before - after:.4f}, so this {met}.\n\n"
    )


def _codebook(name: str, codebook: JsonObject) -> str:
    return (
        f"Codebook of `{name}`, on {codebook['tokens']:,} held-out tokens: cross-entropy of the base "
        f"{codebook['base_ce']:.4f}, of the world model given the inverse dynamics' codes "
        f"{codebook['world_ce']:.4f}, composed {codebook['composed_ce']:.4f} "
        f"({codebook['composed_ce'] - codebook['base_ce']:+.4f} from the base's); perplexity "
        f"{codebook['codebook_perplexity']:.1f} with {codebook['codes_used']} of {codebook['num_codes']} codes in "
        f"use; {codebook['distinct_tokens']:.2f} distinct argmax tokens per state; "
        f"{codebook['reachability']:.1%} of gold tokens reachable; policy entropy "
        f"{codebook['policy_entropy']:.2f} nats."
    )


_SAYS = {
    "longer": "the base after further training, on as many tokens as the latent-action stages read",
    "fta": "`cola` after FTA-I on the tokens that `longer` read, its policy cloned again",
}


def _card(figures: JsonObject) -> str:
    cola, base, recipe = figures["cola"], figures["base"], figures["recipe"]
    present = [name for name in (*MODELS, *CONTROLS) if name in figures]
    measured = [
        [words, *(f"{figures[name][key]:.3f}" for name in present)]
        for key, words in {**_SHARES, **_OTHERS}.items()
    ]
    stages = [
        [
            name,
            stage["steps"],
            f"{stage['steps'] * stage['rows'] * stage['length'] / 1e6:.2f} M",
            f"{stage['lr']:g}",
            f"{figures['cpu_s'][name] / 60:.1f}" if name in figures["cpu_s"] else "",
        ]
        for name, stage in ((name, recipe[name]) for name in ("base", "world", "policy"))
    ]
    hardware, share = figures["hardware"], recipe["corpus"]
    controls = "".join(f"- `{name}` (not in the package): {_SAYS[name]}.\n" for name in present[2:])
    codebooks = "\n\n".join(_codebook(name, figures[name]["codebook"]) for name in present if name in _LATENT)
    return f"""# The bundled models

Two tiny models for learning, testing and demonstrating; they are good for nothing else. Both have the same base.

## Codes against tokens before RL

On the same base, with shares of {figures["episodes"]} episodes each (± is the half-width of a 95 % interval):

{_before_rl(cola, base, figures["episodes"])}

## Models

- `cola` ({cola["parameters"]:,} parameters): a latent-action model with 64 codes. Base: Llama, 3 layers of width 96,
  3 heads, context 2,048. Inverse dynamics and policy of one layer each, two merge layers, readout `state`.
- `base` ({base["parameters"]:,} parameters): the base inside `cola`, weight for weight. The token arm of a comparison
  starts from it.
{controls}
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
{recipe["codes"]["marginal"]:g} on the batch marginal) and policy cloning. `cola pretrain controls --out DIR --seed {recipe["seed"]}`
trains the controls beside them, and `cola pretrain card` measures all of them. Each goes on where it was stopped.

{table(["stage", "steps", "tokens", "peak lr", "CPU-minutes"], stages)}

## Measured

Shares of {figures["episodes"]} episodes. Seed {recipe["seed"]}; {hardware["cpu"]}, {hardware["threads"]} thread(s); figures in `metrics.json`.

{table(["", *present], measured)}

Room to learn:

{_aims(figures)}

{_saturation(figures)}{codebooks}

## Licence

Apache-2.0, like the project. Trained on generated text only.
"""
