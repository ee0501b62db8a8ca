"""What the host waits for and starts in a step in fixed memory, and when its graphs are captured again."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cola_agents.decoding import backbones, session, static
from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.model.sampling import sample
from cola_agents.rl import collecting
from cola_agents.rl.actors import make_actor
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_agents.search import MCTS, SearchConfig
from tests import tiny
from tests.decoding.fixed_memory import PROMPTS, backbone_of, model_of, written
from tests.decoding.test_shared_passes import actions_of, make
from tests.rl.test_rollout import episodes_of, same_episode


class Reads(TorchFunctionMode):
    """Counts copies to the host, and forbids all other ways to read a number of the device."""

    NUMBERS = ("tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__")
    SHAPES = ("nonzero", "masked_select", "unique", "equal", "allclose", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0
        self.other: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        masks = name == "__getitem__" and isinstance(args[1], torch.Tensor) and args[1].dtype == torch.bool
        if name in self.NUMBERS or name in self.SHAPES or masks:
            self.other.append(name)
        return func(*args, **(kwargs or {}))

    def to_host(self, values: torch.Tensor) -> np.ndarray:
        self.copies += 1
        with torch._C.DisableTorchFunction():
            return values.detach().numpy().copy()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    counted = Reads()
    for module in (static, session, backbones, collecting):
        monkeypatch.setattr(module, "to_host", counted.to_host)
    with counted:
        yield counted


@pytest.mark.parametrize("drawing", [{}, {"temperature": 0.0}, {"top_k": 3, "top_p": 0.9}])
def test_a_collection_waits_once_for_several_steps(kind: str, drawing: dict, reads: Reads) -> None:
    backbone, counts = backbone_of(kind, True), []
    episodes = episodes_of(backbone, num_rows=3)

    def on_step(dones: np.ndarray, **seen: Any) -> None:
        counts.append((reads.copies, list(reads.other), bool(dones.any())))
        reads.copies, reads.other = 0, []

    for policy in (make_actor(backbone), InitialPolicy()):
        collect(episodes, policy, seeds=range(6), on_step=on_step, **drawing)
        steady = [(copies, other) for (*_, ended), (copies, other, _) in pairwise(counts) if not ended]
        assert len(steady) > 10
        assert all(copies <= 1 and not other for copies, other in steady), steady
        assert sum(copies for copies, _ in steady) < len(steady) / 3
        counts.clear()


@pytest.mark.parametrize("observation", ["hidden", "features"])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_a_step_of_an_environment_waits_once(kind: str, mode: str, observation: str, reads: Reads) -> None:
    envs = make(backbone_of(kind, True), mode, observation=observation, max_tokens=9, world_temperature=0.3)
    envs.reset(seed=0)
    steady = []
    over = True  # the first step learns which observations are read
    for actions in actions_of(envs):
        reads.copies, reads.other = 0, []
        _, _, terminated, truncated, _ = envs.step(actions)
        ended = (terminated | truncated).any()
        if not over and not (ended and mode == "same_step"):
            steady.append((reads.copies, reads.other))
        over = ended
    assert len(steady) >= 5
    assert all(count == (1, []) for count in steady), steady


class Launches(TorchDispatchMode):
    """Counts the operations that the host starts."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class Recorded:
    """A graph for tests: like one of CUDA, a replay repeats what was captured, on the same tensors."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def replay(self) -> None:
        with torch.utils._python_dispatch._disable_current_modes():
            self.function()


@contextmanager
def recorded(one: Any) -> Iterator[static.Graphs]:
    """A session whose steps are captured and replayed without a GPU."""
    graphs = one._steps._graphs
    graphs._device = torch.device("cuda")
    graphs._capture = lambda function, changed: Recorded(function)
    yield graphs


def test_graphs_are_captured_once_and_replayed_with_new_numbers(kind: str) -> None:
    """Also over collections, with weights that were trained in between, and not with another policy's."""
    rollouts, captures = [], []
    for fixed in (False, True):
        backbone = backbone_of(kind, fixed)
        episodes = episodes_of(backbone, num_rows=4, max_tokens=40)
        actors = [make_actor(backbone), make_actor(backbone)]
        with recorded(episodes.session) if fixed else torch.no_grad() as graphs:
            for turn, actor in enumerate([actors[0], actors[0], actors[1]]):
                with torch.no_grad():
                    actor.head.weight.mul_(-1)
                rollouts.append(collect(episodes, actor, seeds=range(turn, turn + 8)))
                if fixed:
                    captures.append(graphs.captures)
                    assert graphs.captures == len(graphs._captured), "no graph was captured again"
    for plain, fixed in zip(rollouts[:3], rollouts[3:], strict=True):
        for i in range(8):
            same_episode(plain, i, fixed, i)
    assert captures[1] - captures[0] <= 1, "all or some of the rows, up to 32 and up to 64 positions"
    assert captures[2] > captures[1]
    assert graphs.launches > 10 * captures[1]


def test_a_step_starts_few_operations_beside_its_graph(kind: str) -> None:
    one = backbone_of(kind, True).session(5)
    one.load(range(5), PROMPTS)
    act, draw, u = one.device_policy(), partial(sample, temperature=1.0), np.full(5, 0.5)
    counts = []
    with recorded(one) as graphs:
        for _ in range(12):
            with Launches() as launches:
                actions, _ = one.act(range(5), act, draw, u)
                tokens = one.decode(range(5), actions).tokens
                one.extend(range(5), [ids.tolist() for ids in tokens])
            counts.append(launches.count)
    assert graphs.captures == 2, "up to 32 and up to 64 positions"
    assert graphs.launches == 12
    views = 2 * 4 + 8  # slices and shapes, which start nothing on a device
    assert max(counts[1:]) <= views + 2, counts


def test_a_graph_is_dropped_where_memory_or_weights_have_moved(tiny_tokenizer: Any) -> None:
    model = copy.deepcopy(model_of("state"))
    one, plain = (LatentBackbone(model, tiny_tokenizer, static=way).session(2) for way in (True, False))
    with recorded(one) as graphs:

        def run(steps: int) -> int:
            before = graphs.captures
            for each in (one, plain):
                each.load([0, 1], [[1, 2], [3]])
            for _ in range(steps):
                for each in (one, plain):
                    tokens = each.decode([0, 1], np.array([3, 4])).tokens
                    each.extend([0, 1], [ids.tolist() for ids in tokens])
            assert one.tokens == plain.tokens
            np.testing.assert_allclose(one.hidden([0, 1]), plain.hidden([0, 1]), atol=1e-4)
            return graphs.captures - before

        assert run(20) == 1
        assert run(20) == 1, "with observations, since the first were read"
        assert run(20) == 0
        assert run(40) == 1, "attention reads more than 32 positions"
        assert run(40) == 0
        assert run(90) == 1, "beyond 64 positions the buffers grow"
        assert run(90) == 2, "and the graphs of 32 and 64 positions were of the old ones"
        assert run(90) == 0
        with torch.no_grad():
            model.codebook.weight.mul_(-2)
            model.base.rotary_emb.inv_freq.mul_(0.5)
        for each in (one, plain):
            each.forget()
        assert run(20) == 0, "the tables of codes and of angles are made again in the same memory"
        model.base.layers[0].mlp.up_proj.weight.data = 2 * model.base.layers[0].mlp.up_proj.weight.data
        for each in (one, plain):
            each.forget()
        assert run(20) == 1


def test_a_search_captures_few_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that were just restored lag behind: the followers that keep up change from step to step."""
    episodes = episodes_of(backbone_of("state", True), num_rows=8)
    search = MCTS(episodes, SearchConfig(simulations=16), num_trees=4)
    with recorded(episodes.session) as graphs:
        search.solve(range(4))
        assert graphs.launches > 60
        assert graphs.captures <= 4
        monkeypatch.setattr(static, "MOST_GRAPHS", 1)
        graphs.drop()
        search.solve(range(4))
        assert len(graphs._captured) == 1


def test_every_tensor_of_the_table_of_codes_is_told_and_a_graph_holds_what_it_reads() -> None:
    one = backbone_of("state", True).session(2)
    with recorded(one) as graphs:
        one.load([0, 1], [[1], [2]])
        one.decode([0, 1], np.array([3, 4]))
        told = {weight.data_ptr() for weight in one.weights()}
        assert one._table is not None
        for layer in one._table.layers:
            assert {layer.gate.data_ptr(), layer.up.data_ptr(), layer.down.data_ptr()} <= told
        gates = [weakref.ref(layer.gate) for layer in one._table.layers]
        one._table = None
        del layer
        assert all(gate() is not None for gate in gates), "memory that a graph reads went to others"
        graphs.drop()
        assert all(gate() is None for gate in gates)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("temperatures", [(0.0, 0.0), (1.0, 0.7)])
def test_replayed_graphs_give_the_direct_steps_tokens(temperatures: tuple[float, float]) -> None:
    model, tokenizer = tiny.make_cola("state").to("cuda"), tiny.make_tokenizer()
    direct, graphs = (LatentBackbone(model, tokenizer, static=way) for way in (False, True))
    assert written(graphs, *temperatures)[:2] == written(direct, *temperatures)[:2]
