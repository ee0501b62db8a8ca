"""Rows over a cache: whatever was done to them, they equal one full forward pass."""

from __future__ import annotations

import copy
import math
import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.finite import NotFiniteError
from cola_agents.decoding.sharing import WORTH_A_COPY
from cola_agents.rl.actors import make_actor
from cola_agents.rl.collecting import collect
from tests import tiny
from tests.rl.test_rollout import Counting, episodes_of


@pytest.fixture(params=["plain", "static"])
def latent_backbone(request, tiny_cola, tiny_tokenizer) -> LatentBackbone:
    """Over sessions that run as usual, and over those that step in fixed memory."""
    return LatentBackbone(tiny_cola, tiny_tokenizer, static=request.param == "static")


def some_ids(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(1, tiny.TOKENIZER) for _ in range(count)]


@torch.no_grad()
def full_forward(model, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [T, D] and the policy trunk's [T, D] of a row, computed in one pass."""
    h = model.hidden(torch.tensor([ids]))
    return h[0], model.policy_trunk(inputs_embeds=h, use_cache=False).last_hidden_state[0]


def check_against_full_forward(session, follower, model, rows: list[int], ask: bool) -> None:
    features = follower.features(rows) if ask else None
    hidden = session.hidden(rows)
    for i, row in enumerate(rows):
        h, f = full_forward(model, session.tokens[row])
        np.testing.assert_allclose(hidden[i], h[-1], atol=1e-4)
        torch.testing.assert_close(session.states(row), h, atol=1e-4, rtol=0)
        if features is not None:
            torch.testing.assert_close(features[i], f[-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_any_history_equals_one_full_forward(latent_backbone, seed):
    """Loads, forks, roll-backs and extensions in a random order; a follower that is asked now and then."""
    rng = random.Random(seed)
    model = latent_backbone.model
    session = latent_backbone.session(5)
    follower = session.follow(model.policy_trunk)
    truth: list[list[int]] = [[] for _ in range(5)]
    longest = 0
    for _ in range(25):
        rows = sorted(rng.sample(range(5), rng.randint(1, 5))) if rng.random() < 0.6 else list(range(5))
        if rng.random() < 0.3:
            rng.shuffle(rows)
        kind = rng.random()
        if kind < 0.35:
            for row in rows:
                source = truth[rng.randrange(5)]
                kept = source[: rng.randint(0, len(source))]
                truth[row] = [*kept, *some_ids(rng, rng.randint(0 if kept else 1, 60))]
            session.load(rows, [tuple(truth[row]) for row in rows])
        else:
            rows = [row for row in rows if truth[row]]
            if not rows:
                continue
            chunks = [some_ids(rng, 1 if kind < 0.7 else rng.randint(1, 12)) for _ in rows]
            if rng.random() < 0.6:
                tokens = session.decode(rows, np.array(some_ids(rng, len(rows))) % tiny.CODES).tokens
                for chunk, ids in zip(chunks, tokens, strict=True):
                    if rng.random() < 0.7:  # otherwise the decoded token is not taken
                        chunk[0] = int(ids[0])
            for row, chunk in zip(rows, chunks, strict=True):
                truth[row] += chunk
            session.extend(rows, chunks)
        assert session.tokens == truth
        longest = max(longest, *map(len, truth))
        loaded = [row for row in range(5) if truth[row]]
        check_against_full_forward(session, follower, model, loaded, ask=rng.random() < 0.5)
    check_against_full_forward(session, follower, model, loaded, ask=True)
    assert longest > 64, "buffers never grew"


def test_a_follower_that_joins_late_catches_up(latent_backbone):
    session = latent_backbone.session(2)
    session.load([0, 1], [[5, 6, 7], [8] * 70])
    session.extend([1, 0], [[9], [10, 11]])
    follower = session.follow(latent_backbone.model.policy_trunk)
    check_against_full_forward(session, follower, latent_backbone.model, [1, 0], ask=True)


def test_a_follower_rolls_back_with_its_row(latent_backbone):
    session = latent_backbone.session(2)
    follower = session.follow(latent_backbone.model.policy_trunk)
    for ids in ([5, 6, 7, 8], [5, 6], [5], [5, 6, 9], [4, 6, 9], [4, 6, 9]):
        session.load([0, 1], [ids, [1, *ids]])
        check_against_full_forward(session, follower, latent_backbone.model, [0, 1], ask=True)


def test_load_keeps_the_common_prefix(latent_backbone):
    session = latent_backbone.session(2)
    session.load([0, 1], [[1, 2, 3, 4], [5, 6]])
    assert session.tokens_forwarded == 6
    session.load([0], [[1, 2, 3, 4]])
    assert session.tokens_forwarded == 6, "the same ids again cost nothing"
    session.load([0], [[1, 2]])
    assert session.tokens_forwarded == 6, "a prefix costs nothing"
    np.testing.assert_allclose(
        session.hidden([0])[0], full_forward(latent_backbone.model, [1, 2])[0][-1], atol=1e-5
    )
    session.load([0], [[1, 2, 9, 9, 9]])
    assert session.tokens_forwarded == 9
    session.load([0, 1], [[7], [5, 6, 1]])
    assert session.tokens_forwarded == 11


def test_one_forward_for_prompts_of_any_length_and_one_for_single_tokens(latent_backbone):
    session = latent_backbone.session(3)
    calls = []
    hook = latent_backbone.base.register_forward_hook(lambda *_: calls.append(1))
    try:
        session.load([0, 1, 2], [[1, 2, 3], [4, 5], [6, 7, 8, 9]])
        assert len(calls) == 1
        session.extend([0, 1, 2], [[1], [2], [3]])
        assert len(calls) == 2
        session.extend([0, 1, 2], [[1], [2, 3], [4]])
        assert len(calls) == 4
    finally:
        hook.remove()


def test_deferred_texts_share_a_pass_and_leave_their_states_behind(latent_backbone):
    """Rows that are extended, loaded with other texts and taken from, read at the end of each round."""
    pytest.importorskip("numba")
    rng, model = random.Random(3), latent_backbone.model
    session = latent_backbone.session(4)
    follower = session.follow(model.policy_trunk)
    session.load(range(4), [some_ids(rng, 5) for _ in range(4)])
    for _ in range(12):
        taken = []
        with session.deferred():
            session.extend(range(4), [some_ids(rng, rng.randint(1, 3)) for _ in range(4)])
            before = session.tokens_forwarded
            ended = rng.sample(range(4), 2)
            for row in ended:
                taken.append((list(session.tokens[row]), session.take(row)))
            session.load(ended, [some_ids(rng, rng.randint(1, 9)) for _ in ended])
            if not latent_backbone.static:
                assert session.tokens_forwarded == before, "nothing was read yet"
            check_against_full_forward(session, follower, model, list(range(4)), ask=True)
        for ids, states in taken:
            torch.testing.assert_close(states, full_forward(model, ids)[0], atol=1e-4, rtol=0)


def test_what_is_taken_at_the_end_of_a_block_is_filled_in(latent_backbone):
    session = latent_backbone.session(2)
    session.load([0, 1], [[5, 6], [7]])
    with session.deferred():
        session.extend([0], [[8, 9]])
        states = session.take(0)
    torch.testing.assert_close(
        states, full_forward(latent_backbone.model, [5, 6, 8, 9])[0], atol=1e-4, rtol=0
    )

    def fails() -> None:
        with session.deferred():
            session.extend([1], [[8]])
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert session.tokens == [[5, 6, 8, 9], [7, 8]], "an error beside the pass loses no token"
    np.testing.assert_allclose(
        session.hidden([1])[0], full_forward(latent_backbone.model, [7, 8])[0][-1], atol=1e-4
    )


def test_the_observations_of_a_text_are_taken_before_its_row_gets_the_next(latent_backbone):
    """Of texts whose last states are computed, of those that wait, and of long ones that cannot wait."""
    rng, model = random.Random(5), latent_backbone.model
    session = latent_backbone.session(3)
    session.load(range(3), [some_ids(rng, 4) for _ in range(3)])
    session.features([0])
    for length in (1, 2, 140, 1):
        with session.deferred():
            session.extend(range(3), [some_ids(rng, length) for _ in range(3)])
            if length == 2:
                session.features([2])
            texts = [list(session.tokens[row]) for row in (2, 0)]
            last = {name: session.final([2, 0], name) for name in ("hidden", "features")}
            session.load([0, 2], [some_ids(rng, 3), texts[0][:2]])
            features = session.features([0, 1, 2])
        for text, hidden, policy in zip(texts, last["hidden"](), last["features"](), strict=True):
            states, trunk = full_forward(model, text)
            np.testing.assert_allclose(hidden, states[-1], atol=1e-4)
            np.testing.assert_allclose(policy, trunk[-1], atol=1e-4)
        for row in range(3):
            np.testing.assert_allclose(
                features[row], full_forward(model, session.tokens[row])[1][-1], atol=1e-4
            )


def test_what_is_returned_is_never_written_to_again(latent_backbone):
    session = latent_backbone.session(2)
    session.load([0, 1], [[1, 2], [3]])
    seen = {
        "hidden": session.hidden([0, 1]),
        "features": session.features([0, 1]),
        "prior": session.prior([0, 1]),
    }
    kept = {name: array.copy() for name, array in seen.items()}
    session.extend([0, 1], [[4], [5]])
    session.features([0, 1])
    for name, array in seen.items():
        np.testing.assert_array_equal(array, kept[name])
        array += 1.0  # writable, and nobody's but the caller's
    np.testing.assert_allclose(
        session.hidden([0])[0], full_forward(latent_backbone.model, [1, 2, 4])[0][-1], atol=1e-4
    )


@pytest.mark.parametrize(
    "bad",
    [
        lambda s: s.load([0, 1], [[1, 2], []]),
        lambda s: s.load([0, 1], [[1, 2], [3] * 21]),
        lambda s: s.extend([0, 1], [[4], []]),
        lambda s: s.extend([0, 1], [[4], [5] * 19]),
    ],
)
def test_a_refused_call_changes_nothing(latent_backbone, bad):
    session = latent_backbone.session(2, max_length=20)
    session.load([0, 1], [[7, 8, 9], [5, 6]])
    before, hidden, count = copy.deepcopy(session.tokens), session.hidden([0, 1]), session.tokens_forwarded
    with pytest.raises(ValueError, match=r"row 1.*20"):
        bad(session)
    assert session.tokens == before
    assert session.tokens_forwarded == count
    np.testing.assert_array_equal(session.hidden([0, 1]), hidden)
    session.extend([1], [[1] * 18])
    assert len(session.tokens[1]) == 20


def test_reading_before_loading_says_so(latent_backbone):
    session = latent_backbone.session(1)
    for read in (session.hidden, session.features, session.prior):
        with pytest.raises(RuntimeError, match="load"):
            read([0])
    with pytest.raises(ValueError, match="num_rows=0"):
        latent_backbone.session(0)
    with pytest.raises(ValueError, match="max_length=513 is beyond the model's context of 512"):
        latent_backbone.session(1, max_length=513)


# ------------------------------------------------------------------ rows of one prompt


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("deferred", [False, True])
def test_rows_that_begin_with_the_same_tokens_compute_them_once(latent_backbone, start, deferred):
    """From nothing or behind equal tokens, beside others; afterwards each goes on by itself."""
    rng = random.Random(7)
    session, model = latent_backbone.session(6), latent_backbone.model
    follower = session.follow(model.policy_trunk)
    one, other = some_ids(rng, 60), some_ids(rng, 45)
    texts = [one, other, one, [*one[:-1], 5], one, other]
    if start:
        session.load(range(6), [text[:start] for text in texts])
    session.tokens_forwarded = 0
    with session.deferred() if deferred else nullcontext():
        session.load(range(6), texts)
        kept = session.take(4)
    shared = 59 - start  # by one and its near double
    assert session.tokens_forwarded == shared + 1 + 1 + 45 - start
    h, _ = full_forward(model, one)
    torch.testing.assert_close(kept, h, atol=1e-4, rtol=0)
    check_against_full_forward(session, follower, model, list(range(6)), ask=True)
    session.extend(range(6), [[row + 1, 3] for row in range(6)])
    check_against_full_forward(session, follower, model, [5, 0, 4], ask=True)
    check_against_full_forward(session, follower, model, list(range(6)), ask=True)


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("deferred", [False, True])
def test_what_different_prompts_begin_with_is_computed_once(latent_backbone, start, deferred, monkeypatch):
    """As worked examples in front of different problems; a row may hold nothing else."""
    rng = random.Random(7)
    session, model = latent_backbone.session(6), latent_backbone.model
    follower = session.follow(model.policy_trunk)
    examples, other = some_ids(rng, 50), some_ids(rng, 70)
    ends = [[7], [8, 9], [7, 9, 3], []]
    texts = [examples + end for end in ends] + [[*other, 4], [*other, 5]]
    if start:
        session.load(range(6), [text[:start] for text in texts])
        follower.features(range(6))
    read = []
    passes = follower.kv.passes
    monkeypatch.setattr(follower.kv, "passes", lambda *a: (read.append(sum(a[3])), passes(*a))[1])
    session.tokens_forwarded = 0
    with session.deferred() if deferred else nullcontext():
        session.load(range(6), texts)
    assert session.tokens_forwarded == 49 - start + 2 + 3 + 4 + 1 + 70 - start + 2
    check_against_full_forward(session, follower, model, list(range(6)), ask=True)
    again = 2 if start else 0  # a follower runs again over the last token that a row kept, once a group
    assert sum(read) == session.tokens_forwarded + again
    session.extend(range(6), [[row + 1, 3] for row in range(6)])
    check_against_full_forward(session, follower, model, [5, 0, 4], ask=True)
    check_against_full_forward(session, follower, model, list(range(6)), ask=True)


def test_rows_may_fill_the_memory_with_one_prompt(latent_backbone):
    """64 positions are allocated at first: the copied ones are all that there are."""
    session, ids = latent_backbone.session(2), some_ids(random.Random(9), 64)
    session.load(range(2), 2 * [ids])
    assert session.tokens_forwarded == 64
    check_against_full_forward(
        session, session.follow(latent_backbone.model.policy_trunk), latent_backbone.model, [1, 0], ask=True
    )


def test_few_tokens_are_computed_and_not_copied(latent_backbone):
    session = latent_backbone.session(3)
    session.load(range(3), 3 * [some_ids(random.Random(8), WORTH_A_COPY - 1)])
    assert session.tokens_forwarded == 3 * (WORTH_A_COPY - 1)


class LongPrompt(Counting):
    """Prompts of more tokens than are computed again."""

    def reset(self, rng: np.random.Generator) -> str:
        super().reset(rng)
        return "".join(rng.choice(list("abcdefgh"), size=2 * WORTH_A_COPY))


def test_the_prompt_of_a_group_is_computed_once_and_its_episodes_are_those_of_single_rows(latent_backbone):
    def play(rows: int) -> Any:
        episodes = episodes_of(latent_backbone, LongPrompt, rows, max_tokens=6)
        actor = make_actor(latent_backbone)
        found = collect(episodes, actor, seeds=range(8), problem_seeds=[1, 1, 1, 1, 2, 2, 2, 2])
        return found, episodes.session.tokens_forwarded

    together, computed = play(8)
    apart, _ = play(1)
    for name in ("ids", "mask", "actions"):
        assert getattr(together, name).equal(getattr(apart, name))
    torch.testing.assert_close(together.hidden[together.mask], apart.hidden[apart.mask], atol=1e-5, rtol=0)
    prompt = len(together.prompts[0])
    assert prompt >= WORTH_A_COPY
    answers = int(together.lengths.sum()) - 8 * prompt
    assert computed <= 2 * prompt + answers


# ------------------------------------------------------------------ numbers that are not finite


def broken(backbone: LatentBackbone, module: str, index: int | None = None) -> LatentBackbone:
    """A copy of the backbone with NaN in one embedding, or in all of a module's weight."""
    model = copy.deepcopy(backbone.model)
    weight = model.get_submodule(module).weight
    with torch.no_grad():
        (weight if index is None else weight[index]).fill_(math.nan)
    return LatentBackbone(model, backbone.tokenizer, backbone.static)


def test_nan_in_a_hidden_state_names_row_and_token(latent_backbone):
    session = broken(latent_backbone, "base.embed_tokens", 33).session(3)
    session.load([0, 1, 2], [[1, 2], [3], [4, 5]])
    with pytest.raises(NotFiniteError, match=r"row 2 .*token 33") as caught:
        session.extend([0, 2, 1], [[6], [33], [7]])
    assert caught.value.row == 2
    assert session.tokens == [[1, 2], [3], [4, 5]]
    with pytest.raises(FloatingPointError, match=r"row 1 .*token 7"):
        session.load([0, 1], [[9, 9], [33, 7]])


def test_nan_in_a_prompt_of_several_rows_leaves_none_of_them_with_it(latent_backbone):
    session = broken(latent_backbone, "base.embed_tokens", 33).session(3)
    session.load(range(3), [[4], [5], [6]])
    bad = [*[1] * WORTH_A_COPY, 33]
    with pytest.raises(NotFiniteError, match=r"row 0 .*token 33"):
        session.load(range(3), [[4, *bad], [4, *bad], [4, *bad]])
    assert session.tokens == [[4], [], []]
    session.load(range(3), 3 * [[4, 7]])
    np.testing.assert_allclose(session.hidden([2])[0], session.hidden([0])[0], atol=1e-5)


@pytest.mark.parametrize("deferred", [False, True])
def test_nan_behind_what_rows_begin_alike_with_leaves_none_of_them_with_half_a_text(
    latent_backbone, deferred
):
    session = broken(latent_backbone, "base.embed_tokens", 33).session(3)
    session.load(range(3), [[4], [5], [6]])
    shared = [1] * (2 * WORTH_A_COPY)
    with (
        pytest.raises(NotFiniteError, match=r"row 1 .*token 33"),
        session.deferred() if deferred else nullcontext(),
    ):
        session.load(range(3), [[*shared, 7], [*shared, 33], [9]])
    assert session.tokens == [[], [], []]
    session.load(range(3), 3 * [[4, 7]])
    np.testing.assert_allclose(session.hidden([2])[0], session.hidden([0])[0], atol=1e-5)


@pytest.mark.parametrize("static", [False, True])
def test_forgotten_rows_may_go_on_after_inference_mode_and_in_another_type(static):
    model = copy.deepcopy(tiny.make_cola("state"))
    backbone = LatentBackbone(model, tiny.make_tokenizer(), static=static)
    session = backbone.session(2)

    def play():
        session.forget()
        session.load([0, 1], [[1, 2], [3]])
        for _ in range(3):
            session.prior([0, 1])
            tokens = session.decode([0, 1], np.array([3, 4])).tokens
            session.extend([0, 1], [ids.tolist() for ids in tokens])
        return session.tokens, session.features([0, 1])

    expected = play()
    with torch.inference_mode():
        assert play()[0] == expected[0]
    again = play()
    assert again[0] == expected[0]
    np.testing.assert_allclose(again[1], expected[1], atol=1e-5)
    model.to(torch.bfloat16)
    np.testing.assert_allclose(play()[1], expected[1], atol=0.1)


def test_a_row_recovers_from_nan_once_it_is_loaded_anew(latent_backbone):
    session = broken(latent_backbone, "base.embed_tokens", 33).session(2)
    with pytest.raises(FloatingPointError):
        session.load([0, 1], [[1, 2, 3, 33, 5], [1] * 9])
    session.load([0, 1], [[4], [6] * 9])
    session.extend([0, 1], [[5], [7]])
    expected = full_forward(latent_backbone.model, [4, 5])
    np.testing.assert_allclose(session.hidden([0])[0], expected[0][-1], atol=1e-4)
    np.testing.assert_allclose(session.features([0, 1])[0], expected[1][-1], atol=1e-4)


def test_nan_in_the_world_names_row_and_action(latent_backbone):
    session = broken(latent_backbone, "codebook", 3).session(3)
    session.load([0, 1, 2], [[1], [2], [3]])
    assert len(session.decode([0, 1], np.array([1, 2])).tokens) == 2
    with pytest.raises(NotFiniteError, match=r"row 2 .*action 3") as caught:
        session.decode([1, 2], np.array([1, 3]))
    assert caught.value.row == 2
    with pytest.raises(FloatingPointError, match="row 0"):
        session.outcomes([0, 1])


def test_nan_in_the_policy_names_the_row(latent_backbone):
    trunk = broken(latent_backbone, "policy_trunk.norm").session(2)
    head = broken(latent_backbone, "policy_head").session(2)
    for session in (trunk, head):
        session.load([0, 1], [[1], [2]])
        with pytest.raises(NotFiniteError, match="row 1") as caught:
            session.prior([1])
        assert caught.value.row == 1
    with pytest.raises(FloatingPointError, match="row 1"):
        trunk.features([1])


# ------------------------------------------------------------------ decoding


def play(backbone, prompts, seeds, steps: int, temperature: float) -> list[list[int]]:
    """Codes from each row's own stream, tokens from the world: the rows' token ids."""
    rows = list(range(len(prompts)))
    streams = [np.random.default_rng(seed) for seed in seeds]
    session = backbone.session(len(rows))
    session.load(rows, prompts)
    for _ in range(steps):
        codes = np.array([stream.integers(tiny.CODES) for stream in streams])
        u = np.array([stream.random() for stream in streams])
        decoded = session.decode(rows, codes, u if temperature else None, temperature)
        session.extend(rows, [ids.tolist() for ids in decoded.tokens])
    return session.tokens


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_gives_the_same_tokens_in_a_batch_of_1_8_and_32(latent_backbone, temperature):
    rng = random.Random(0)
    prompts = [some_ids(rng, rng.randint(1, 30)) for _ in range(32)]
    seeds = list(range(100, 132))
    wide = play(latent_backbone, prompts, seeds, 40, temperature)
    for size in (1, 8):
        for start in (0, 16):
            part = slice(start, start + size)
            assert play(latent_backbone, prompts[part], seeds[part], 40, temperature) == wide[part]


def test_decode_appends_nothing_and_draws_by_its_uniform(latent_backbone):
    session = latent_backbone.session(2)
    session.load([0, 1], [[1, 2], [3]])
    codes, u = np.array([4, 9]), np.array([0.2, 0.9])
    before = copy.deepcopy(session.tokens)
    decoded = session.decode([0, 1], codes, u, 0.7)
    assert session.tokens == before
    with torch.no_grad():
        logits = latent_backbone.model.world(session.last([0, 1]), torch.tensor(codes))
    chances = (logits[:, : tiny.TOKENIZER] / 0.7).softmax(-1)
    for i in range(2):
        assert decoded.tokens[i].shape == (1,)
        assert decoded.tokens[i].dtype == np.int64
        below = chances[i, : decoded.tokens[i][0] + 1].cumsum(0)
        assert below[-1] > u[i] >= (below[-2] if len(below) > 1 else 0)
    greedy = session.decode([0, 1], codes)
    assert [int(ids[0]) for ids in greedy.tokens] == logits[:, : tiny.TOKENIZER].argmax(-1).tolist()
    with pytest.raises(ValueError, match="needs a uniform u"):
        session.decode([0, 1], codes, None, 0.7)


def test_ids_that_stand_for_no_token_are_never_drawn(latent_backbone, token_backbone):
    model = copy.deepcopy(latent_backbone.model)
    with torch.no_grad():
        # Make the unused ids the likeliest by far, in every state, under every code.
        model.lm_head.weight[tiny.TOKENIZER :] = 50 * model.lm_head.weight[: tiny.VOCAB - tiny.TOKENIZER]
    session = LatentBackbone(model, latent_backbone.tokenizer).session(1)
    session.load([0], [[1, 2, 3]])
    for code in range(tiny.CODES):
        for u in (0.0, 0.4, 0.8, 1 - 2**-53):
            for temperature in (0.0, 1.0, 50.0):
                decoded = session.decode([0], np.array([code]), np.array([u]), temperature)
                assert decoded.tokens[0][0] < tiny.TOKENIZER
    ids, log_probs = session.outcomes([0], top_k=5)
    assert ids.max() < tiny.TOKENIZER
    assert np.isfinite(log_probs).all()
    tokens = token_backbone.session(1)
    tokens.load([0], [[1, 2]])
    assert np.isneginf(tokens.prior([0])[0, tiny.TOKENIZER :]).all()
    assert token_backbone.action_mask().sum() == tiny.TOKENIZER


def test_outcomes_are_what_decode_gives(latent_backbone):
    session = latent_backbone.session(3)
    session.load([0, 1, 2], [[1], [2, 3], [4]])
    ids, log_probs = session.outcomes([2, 1], top_k=3)
    assert ids.shape == log_probs.shape == (2, tiny.CODES, 3)
    assert (np.diff(log_probs) <= 0).all()
    for code in range(tiny.CODES):
        decoded = session.decode([2, 1], np.array([code, code]))
        assert [int(d[0]) for d in decoded.tokens] == ids[:, code, 0].tolist()
    some, some_log_probs = session.outcomes([2, 1], actions=[7, 3])
    np.testing.assert_array_equal(some, ids[:, [7, 3], :1])
    np.testing.assert_allclose(some_log_probs, log_probs[:, [7, 3], :1], atol=1e-5)


def test_prior_and_features_are_the_cloned_policys(latent_backbone):
    session = latent_backbone.session(2)
    session.load([0, 1], [[1, 2, 3], [4]])
    model = latent_backbone.model
    trunk, head = latent_backbone.initial_policy()
    for row in (0, 1):
        with torch.no_grad():
            expected = model.policy(model.hidden(torch.tensor([session.tokens[row]])))[0, -1].log_softmax(-1)
        np.testing.assert_allclose(session.prior([row])[0], expected, atol=1e-4)
    features = torch.tensor(session.features([0, 1]))
    with torch.no_grad():
        np.testing.assert_allclose(head(features).log_softmax(-1), session.prior([0, 1]), atol=1e-5)
    assert trunk is model.policy_trunk


def test_at_token_level_an_action_is_its_token(token_backbone: TokenBackbone, tiny_base):
    session = token_backbone.session(2)
    session.load([0, 1], [[1, 2, 3], [4]])
    decoded = session.decode([0, 1], np.array([17, 5]))
    assert [d.tolist() for d in decoded.tokens] == [[17], [5]]
    with torch.no_grad():
        logits = tiny_base(torch.tensor([[1, 2, 3]])).logits[0, -1, : tiny.TOKENIZER]
    np.testing.assert_allclose(
        session.prior([0])[0, : tiny.TOKENIZER], logits.log_softmax(-1).numpy(), atol=1e-4
    )
    np.testing.assert_array_equal(session.features([0, 1]), session.hidden([0, 1]))
    ids, log_probs = session.outcomes([0, 1], actions=[3, 9])
    assert ids.tolist() == [[[3], [9]]] * 2
    assert not log_probs.any()
    ids[0, 0, 0] = 99  # fresh memory: the caller may write
    assert ids[1, 0, 0] == 3
    with pytest.raises(ValueError, match="top_k must be 1, got 2"):
        session.outcomes([0], top_k=2)


def test_forget_drops_what_the_old_weights_gave(latent_backbone):
    model = copy.deepcopy(latent_backbone.model)
    session = LatentBackbone(model, latent_backbone.tokenizer).session(2)
    session.load([0, 1], [[1, 2, 3], [4] * 70])
    session.features([0, 1])
    with torch.no_grad():
        model.base.layers[0].mlp.up_proj.weight.mul_(-1)
        model.policy_trunk.layers[0].mlp.up_proj.weight.mul_(-1)
    session.forget()
    session.load([0, 1], [[1, 2, 3], [4] * 70])
    h, f = full_forward(model, [1, 2, 3])
    np.testing.assert_allclose(session.hidden([0])[0], h[-1], atol=1e-4)
    np.testing.assert_allclose(session.features([0])[0], f[-1], atol=1e-4)
