"""Data of a page: a codebook, a run's training curves and text samples, a search tree."""

from __future__ import annotations

import csv
import heapq
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from cola_agents.evaluation.inspection import Inspection
from cola_agents.rl.history import Record
from cola_agents.search.config import SearchResult
from cola_envs import jsonl
from cola_envs.backbone import Tokenizer
from cola_envs.jsonl import JsonObject
from cola_envs.shown import shown

#: Figures of a history that are drawn first; the others follow, without the counters.
FIRST = ("reward", "success", "length", "entropy", "kl")
_COUNTS = ("update", "timesteps", "episodes")
#: The largest numbers of nodes of a tree and of samples of a run.
NODES, SAMPLES = 400, 200


def codebook(inspection: Inspection) -> JsonObject:
    """An inspection, with each code's :func:`specific_information` about the next token."""
    data = inspection.as_dict()
    for code in data["codes"]:
        code["information"] = specific_information(inspection.joint, code["code"])
    return data


def specific_information(joint: Tensor, code: int) -> float:
    """The KL divergence of a code's next tokens from the next tokens of all codes, in nats.

    Its mean over the uses is the plug-in mutual information. 0 for a code without uses.

    Args:
        joint: counts of each code with each next token, [A, V].
    """
    own, every = joint[code].double(), joint.sum(0).double()
    seen = own > 0
    if not seen.any():
        return 0.0
    share, base = own[seen] / own.sum(), every[seen] / every.sum()
    return float((share * (share / base).log()).sum())


def curves(history: Sequence[Record]) -> list[JsonObject]:
    """A history's figures over timesteps; None where an update has no finite value.

    Figures that are constant are left out, but for the reward: one that stays 0 is a result.
    """
    names = dict.fromkeys(name for record in history for name in record if name not in _COUNTS)
    order = sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    drawn = []
    for name in order:
        values = [record.get(name) for record in history]
        y = [value if value is not None and math.isfinite(value) else None for value in values]
        if len({value for value in y if value is not None}) > (name != "reward"):
            drawn.append({"name": name, "x": [record["timesteps"] for record in history], "y": y})
    return drawn


def samples(logs: Path) -> list[JsonObject]:
    """The text samples in a run's log files, ``progress*.json`` or else ``progress*.csv``, by timesteps.

    Damaged lines of the log are left out.
    """
    texts: dict[int, str] = {}
    for row in _logged(logs):
        text, timesteps = row.get("sample/text"), row.get("time/total_timesteps")
        if text and timesteps:
            texts[int(float(timesteps))] = str(text)
    every = [{"timesteps": at, "text": shown(texts[at])} for at in sorted(texts)]
    stride = max(1, math.ceil(len(every) / SAMPLES))
    return every[::-stride][::-1]


def _logged(logs: Path) -> Iterator[JsonObject]:
    files = sorted(logs.glob("progress*.json"), key=lambda path: path.stat().st_mtime)
    for path in files:
        for line in jsonl.lines(path):
            # Learning goes on where a record could not be written whole, on a full disk say.
            with suppress(ValueError):
                row = jsonl.parsed(line.raw, f"{path}, line {line.number}")
                if isinstance(row, dict):
                    yield row
    for path in [] if files else sorted(logs.glob("progress*.csv"), key=lambda path: path.stat().st_mtime):
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)


def tree(result: SearchResult, tokenizer: Tokenizer, title: str) -> JsonObject:
    """The most visited nodes of a search's first tree, parents before their children."""
    searched, answer = result.trees[0], result.answers[0]
    nodes: list[JsonObject] = []
    waiting = [(-searched.visits(0), 0, -1, 0)]  # visits, node, index of its parent in nodes, depth
    while waiting and len(nodes) < NODES:
        _, node, parent, depth = heapq.heappop(waiting)
        number, children = len(nodes), searched.children(node)
        if parent >= 0:
            nodes[parent]["more"] -= 1
        nodes.append(
            {
                "parent": parent,
                "depth": depth,
                "text": shown(tokenizer.decode(searched.tokens(node))) if parent >= 0 else "",
                "actions": list(searched.line(node)),
                "visits": searched.visits(node),
                "value": searched.mean(node),
                "prior": searched.prior(node),
                "terminal": searched.terminal(node),
                "more": len(children),
            }
        )
        for child in children:
            heapq.heappush(waiting, (-searched.visits(child), child, number, depth + 1))
    return {
        "title": title,
        "prompt": shown(tokenizer.decode(searched.tokens(0))),
        "answer": None if answer is None else shown(answer.text),
        "reward": None if answer is None else answer.reward,
        "nodes": nodes,
    }
