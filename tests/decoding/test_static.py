"""Steps in fixed memory give what plain sessions give, and read and hold no more than they need."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config

from cola_agents.decoding import lean
from cola_agents.decoding.backbones import TokenBackbone
from cola_agents.decoding.kv import capacity
from cola_agents.decoding.static import positions_read
from cola_agents.rl.actors import make_actor
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_agents.search import MCTS, SearchConfig
from tests import tiny
from tests.decoding.fixed_memory import backbone_of, written
from tests.decoding.test_shared_passes import ROWS, actions_of, make
from tests.rl.test_rollout import Counting, Talking, episodes_of, same_episode


@pytest.mark.parametrize("temperatures", [(0.0, 0.0), (1.0, 0.0), (0.8, 0.7)])
@pytest.mark.parametrize("kind", ["state", "difference", "token", "qwen2", "qwen3"])
def test_steps_give_a_plain_sessions_tokens(kind: str, temperatures: tuple[float, float]) -> None:
    plain = written(backbone_of(kind, False), *temperatures)
    fixed = written(backbone_of(kind, True), *temperatures)
    assert fixed[:2] == plain[:2]
    np.testing.assert_allclose(fixed[2], plain[2], atol=1e-4)


@pytest.mark.parametrize("world_temperature", [0.0, 0.7])
@pytest.mark.parametrize("task", [Counting, Talking])
def test_collections_are_the_same(kind: str, task: Any, world_temperature: float) -> None:
    rollouts = []
    for fixed in (False, True):
        backbone = backbone_of(kind, fixed)
        episodes = episodes_of(backbone, task, num_rows=3, world_temperature=world_temperature)
        actor = make_actor(backbone)
        rollouts.append([collect(episodes, policy, seeds=range(8)) for policy in (actor, InitialPolicy())])
    for plain, fixed in zip(*rollouts, strict=True):
        for i in range(8):
            same_episode(plain, i, fixed, i)
        torch.testing.assert_close(plain.hidden, fixed.hidden, atol=1e-4, rtol=0)


@pytest.mark.parametrize("observation", ["hidden", "features"])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_environments_are_the_same(kind: str, mode: str, observation: str) -> None:
    settings = {"observation": observation, "prior_coef": 0.1, "world_temperature": 0.5}
    plain, fixed = (make(backbone_of(kind, way), mode, **settings) for way in (False, True))
    np.testing.assert_allclose(plain.reset(seed=0)[0], fixed.reset(seed=0)[0], atol=1e-4)
    for actions in actions_of(plain):
        one, other = plain.step(actions), fixed.step(actions)
        for mine, theirs in zip(one[:4], other[:4], strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-4)
        for row in np.flatnonzero(one[4].get("_final_obs", [])):
            np.testing.assert_allclose(one[4]["final_obs"][row], other[4]["final_obs"][row], atol=1e-4)
    for row in range(ROWS):
        assert plain.unwrapped.episodes.tokens(row) == fixed.unwrapped.episodes.tokens(row)


def test_searches_are_the_same() -> None:
    chosen = []
    for fixed in (False, True):
        search = MCTS(episodes_of(backbone_of("state", fixed), num_rows=2), SearchConfig(simulations=12))
        chosen.append(search.solve([3, 4]))
    for name in ("visits", "actions", "lines", "new_tokens"):
        np.testing.assert_array_equal(getattr(chosen[0], name), getattr(chosen[1], name))


def test_room_grows_by_no_more_than_a_half() -> None:
    rooms = [capacity(length, 4000) for length in range(1, 4001)]
    assert rooms[:64] == [64] * 64
    assert all(length <= room <= max(64, 1.5 * length) for length, room in enumerate(rooms, 1))
    assert len(set(rooms)) == 13
    assert capacity(65, 80) == 80


def test_attention_reads_at_most_a_quarter_more_than_there_is() -> None:
    read = [positions_read(length, 4000) for length in range(1, 4001)]
    assert read[:128] == [32] * 32 + [64] * 32 + [96] * 32 + [128] * 32
    assert all(length <= many <= 1.25 * length for length, many in enumerate(read[128:], 129))
    assert all(many <= capacity(length, 4000) for length, many in enumerate(read, 1))
    assert len(set(read[:2048])) == 20
    assert positions_read(65, 80) == 80


def test_a_step_reads_less_than_there_is_room_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where rows were longer before: what they held lies behind what is read, or is masked."""
    read, attend = [], lean._attend

    def reading(plan: Any, q: Any, keys: torch.Tensor, *others: Any) -> torch.Tensor:
        read.append((q.shape[1], keys.shape[1]))
        return attend(plan, q, keys, *others)

    monkeypatch.setattr(lean, "_attend", reading)
    one, plain = (backbone_of(kind, fixed).session(2) for fixed in (True, False))
    for length, expected in ((100, 128), (64, 96), (20, 32)):
        for each in (one, plain):
            each.load([0, 1], [[length % 7] * length, [3]])
            read.clear()
            each.extend([0, 1], [ids.tolist() for ids in each.decode([0, 1], np.array([3, 4])).tokens])
            assert each is plain or set(read) == {(1, expected)}
        assert one._states.data is not None
        assert one._states.data.shape[1] == 128
        assert one.tokens == plain.tokens
        np.testing.assert_allclose(one.hidden([0, 1]), plain.hidden([0, 1]), atol=1e-4)


def test_a_session_gives_its_memory_back_without_a_collection() -> None:
    one = backbone_of("state", True).session(2)
    one.load([0, 1], [[1], [2]])
    one.features([0, 1])
    one.decode([0, 1], np.array([1, 2]))
    held = weakref.ref(one)
    del one
    assert held() is None


def test_another_family_steps_as_it_did(tiny_tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=tiny.VOCAB,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    tokens = []
    for way in (False, True):
        backbone = TokenBackbone(model, tiny_tokenizer, static=way)
        tokens.append(written(backbone, 0.0, 0.0)[0])
    assert tokens[0] == tokens[1]
