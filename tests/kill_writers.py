"""``python -m tests.kill_writers``: kill -9 what writes, at random moments, and look for what is gone.

Each writer runs in a process of its own, every second time twice at once in the same folder, and is killed
after a random time. Its folder must then hold all that it held at any look before, and what is loaded must be
whole. Started again it goes on. A run that comes to its end must have come to what an undisturbed one comes
to; then a new folder is begun.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.compare import records
from benchmarks.compare.campaign import Plan, campaign
from cola_agents import cli
from cola_agents.common.files import InUseError
from cola_agents.decoding.loading import BUNDLED
from cola_agents.evaluation.run import load_agent
from cola_envs import jsonl
from tests import comparisons, tiny

TASK = ("--task", "CoLA-Arithmetic-v0")


def cola(*words: Any) -> int:
    return cli.main([str(word) for word in words])


def lines(path: Path) -> list[Any]:
    """The whole lines of a file that may be being written, less the CPU seconds, which differ."""
    found = [item for _, item in jsonl.records(path, lambda item, line: None)]
    return [{name: value for name, value in item.items() if name != "cpu_s"} for item in found]


def train(out: Path) -> int:
    if (out / "agent.json").is_file():
        return cola("resume", out)
    sizes = ("--num-envs", 4, "--episodes", 4, "--save-every", 20, "--log-interval", 1, "--timesteps", 400)
    options = ("--set", "prompts=2", "--set", "group_size=2", "--set", "lr=1e-3", "--env", "max_tokens=5")
    return cola("train", *TASK, "--algo", "grpo", "--out", out, *sizes, *options)


def trained(out: Path) -> list[Any]:
    """The updates of the saved agent; loading it checks its weights."""
    if not (out / "agent.json").is_file():
        return []
    agent = load_agent(out)
    agent.close()
    return [{**record, "cpu_s": None} for record in agent.history]


def generate(out: Path) -> int:
    path = out / ("a.jsonl" if out.name[-1] in "02468" else "a.jsonl.gz")
    return cola("generate", *TASK, "--out", path, "--problems", 40, "--n", 2, "--num-envs", 4)


def generated(out: Path) -> list[Any]:
    """Seed and tokens of the episodes of whole problems."""
    episodes = [item for path in out.glob("a.jsonl*") for item in lines(path)][1:]
    return [[item["seed"], item["ids"]] for item in episodes[: len(episodes) // 2 * 2]]


def pretrain(out: Path) -> int:
    sizes = ("--steps", 30, "--save-every", 3, "--log-every", 1, "--rows", 2, "--length", 32, "--codes", 8)
    return cola("pretrain", "world", "--model", BUNDLED / "base", "--out", out, *sizes)


def pretrained(out: Path) -> list[Any]:
    """The log up to the newest checkpoint; at the end the weights' digest, too."""
    saved = sorted((out / "checkpoints" / "world").glob("step-*"))
    found: list[Any] = lines(out / "log.jsonl")[: int(saved[-1].name[5:])] if saved else []
    if (out / "training.json").is_file():
        found.append(hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest())
    return found


def compare(out: Path) -> int:
    plan = Plan(comparisons.SMALL, ("latent",), (0,), 4, tuning_models=1, keep=None, allowed=0.0, settings=6)
    campaign(plan, out.parent / "models", out)
    return 0


def compared(out: Path) -> list[Any]:
    """The runs, by what was run and what came out; the report's own reader takes them."""
    if not (out / "runs.jsonl").is_file() or not records.read(out).runs:
        return []
    return [[item["phase"], item["arm"], item["seed"], item["after"]] for item in lines(out / "runs.jsonl")]


#: What writes, what is recorded (what comes later stands behind), and whether that may be read meanwhile.
WRITERS = {
    "train": (train, trained, False),
    "generate": (generate, generated, True),
    "pretrain": (pretrain, pretrained, False),
    "compare": (compare, compared, True),
}


def started(write: Callable[[Path], int], out: Path) -> int:
    """A process that writes; what it prints goes into a file beside the folder."""
    out.mkdir(exist_ok=True)
    if pid := os.fork():
        return pid
    # tqdm's own lock is shared with forked processes: one killed within it would stop all that come later.
    tqdm.set_lock(threading.RLock())
    try:
        printed = os.open(out.with_suffix(f".{os.getpid()}.txt"), os.O_WRONLY | os.O_CREAT, 0o666)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        status = write(out)
    except BaseException as error:
        traceback.print_exc()
        status = 2 if isinstance(error, InUseError) else 1
    finally:
        sys.stdout.flush()
        os._exit(status)


def ended(pids: list[int], after: float, look: Callable[[], None]) -> list[int]:
    """Exit statuses of those that end by themselves, and of the others, killed after so many seconds."""
    until, statuses = time.monotonic() + after, []
    while pids:
        late = time.monotonic() > until
        for pid in list(pids):
            if late:
                os.kill(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, 0 if late else os.WNOHANG)
            if done:
                pids.remove(pid)
                statuses.append(os.waitstatus_to_exitcode(status))
        look()
        time.sleep(0.01)
    return sorted(statuses)


def kill(name: str, kills: int, folder: Path, draw: random.Random) -> list[str]:
    """Kill a writer so many times; returns what was lost or went wrong, a line each."""
    write, recorded, live = WRITERS[name]
    begun, whole = time.monotonic(), folder / f"{name}-0"
    assert ended([started(write, whole)], 300, lambda: None) == [0], f"{name} does not come to its end"
    span, expected = time.monotonic() - begun, recorded(whole)
    wrong, seen = list[str](), list[Any]()
    killed, kept, number = 0, 0, 1

    def look() -> None:
        nonlocal seen
        found = recorded(folder / f"{name}-{number}")
        if found[: len(seen)] != seen:
            wrong.append(f"{name}-{number}, kill {killed}: {len(seen)} records became {len(found)} others")
        seen = found

    while killed < kills:
        fresh, begun = not seen, time.monotonic()
        pids = [started(write, folder / f"{name}-{number}") for _ in range(1 + killed % 2)]
        statuses = ended(pids, draw.uniform(0, span), look if live else lambda: None)
        look()
        if statuses not in ([0], [-9], [0, 2], [-9, 0], [-9, 2], [-9, -9]):
            wrong.append(f"{name}-{number}, kill {killed}: exit statuses {statuses}")
        if -9 in statuses:
            killed, kept = killed + 1, kept + len(seen)
        if 0 in statuses:
            if seen != expected:
                wrong.append(f"{name}-{number} ends otherwise than an undisturbed run")
            if fresh:  # the first one may have compiled for long: kills after the end would be none
                span = min(span, time.monotonic() - begun)
            number, seen = number + 1, []
    print(
        f"{name}: {killed} kills, {kept} records by then, {number - 1} ends, {len(wrong)} losses", flush=True
    )
    return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill_writers", description=__doc__)
    parser.add_argument("writers", nargs="*", default=list(WRITERS), help=", ".join(WRITERS))
    parser.add_argument("--kills", type=int, default=30, help="of each writer")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="an absent one, which is kept; a temporary one without")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        tiny.write_models(folder / "models", seeds=(0,))
        draws = {name: random.Random(f"{arguments.seed} {name}") for name in arguments.writers}
        wrong = [line for name in draws for line in kill(name, arguments.kills, folder, draws[name])]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
