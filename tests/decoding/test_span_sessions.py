"""Sessions whose actions write several tokens: what they give, and what they compute twice."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.decoding.code_table import code_table
from cola_agents.decoding.finite import NotFiniteError
from cola_agents.model.sampling import sample
from cola_envs import EachRow, Episodes, Turn
from tests import tiny

K, EOS = 3, 0
PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16], [17]]


@torch.no_grad()
def by_hand(
    backbone: LatentBackbone, ids: list[int], code: int, u: np.ndarray | None = None, temperature: float = 1.0
) -> list[int]:
    """The tokens of a code, each by one full pass; an end of text ends them."""
    model, written = backbone.model, []
    for phase in range(K):
        h = model.hidden(torch.tensor([ids + written]))[:, -1]
        logits = model.world(h, torch.tensor([code]), phase)
        logits = logits.masked_fill(backbone.unused_ids, float("-inf"))
        if u is None:
            token = logits.argmax(-1)
        else:
            token = sample(logits, torch.tensor(u[phase : phase + 1]), temperature=temperature)[0]
        written.append(int(token))
        if written[-1] == EOS:
            break
    return written


def listed(decoded: Any) -> list[list[int]]:
    return [ids.tolist() for ids in decoded.tokens]


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("table", [False, True])
def test_a_code_writes_its_tokens_one_by_one(span_backbone, deferred, table):
    session = span_backbone.session(4)
    session._table_possible = table
    with session.deferred() if deferred else nullcontext():
        session.load(range(4), PROMPTS)
        for codes in ([0, 3, 7, 15], [1, 1, 2, 9]):
            expected = [by_hand(span_backbone, ids, code) for ids, code in zip(PROMPTS, codes, strict=True)]
            assert listed(session.decode(range(4), np.array(codes))) == expected
            some = session.decode([2, 0], np.array([codes[2], codes[0]]))
            assert listed(some) == [expected[2], expected[0]]


def test_a_sampled_world_draws_every_token_by_a_uniform_of_its_own(span_backbone):
    session = span_backbone.session(4)
    session.load(range(4), PROMPTS)
    u = np.random.default_rng(0).random((4, K))
    found = listed(session.decode(range(4), np.arange(4), u, temperature=0.7))
    assert found == [by_hand(span_backbone, ids, n, u[n], 0.7) for n, ids in enumerate(PROMPTS)]
    with pytest.raises(ValueError, match="for every token"):
        session.decode([0], np.array([0]), temperature=1.0)


def test_decoding_leaves_the_rows_as_they_were(span_backbone):
    session = span_backbone.session(4)
    session.load(range(4), PROMPTS)
    before = session.hidden(range(4)), session.features(range(4)), session.prior(range(4))
    first = listed(session.decode(range(4), np.arange(4)))
    assert session.tokens == PROMPTS
    after = session.hidden(range(4)), session.features(range(4)), session.prior(range(4))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert listed(session.decode(range(4), np.arange(4))) == first


@pytest.mark.parametrize("kept", [1, 2, 3])
@pytest.mark.parametrize("text", [[], [40, 41]])
def test_written_tokens_are_computed_once_whatever_is_kept_of_them(span_backbone, kept, text):
    session, fresh = span_backbone.session(2), span_backbone.session(2)
    session.load([0, 1], PROMPTS[:2])
    chunks = [ids[:kept] + text for ids in listed(session.decode([0, 1], np.array([3, 4])))]
    before = session.tokens_forwarded
    session.extend([0, 1], chunks)
    session.hidden([0, 1])
    computed = sum(len(chunk) - min(kept, K - 1) for chunk in chunks)
    assert session.tokens_forwarded - before == computed
    whole = [ids + chunk for ids, chunk in zip(PROMPTS, chunks, strict=False)]
    fresh.load([0, 1], whole)
    assert session.tokens == whole
    for name in ("hidden", "features", "prior"):
        found, expected = getattr(session, name)([0, 1]), getattr(fresh, name)([0, 1])
        np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(session.states(0), fresh.states(0), atol=1e-4)


def test_other_tokens_than_the_written_ones_are_computed_anew(span_backbone):
    session, fresh = span_backbone.session(1), span_backbone.session(1)
    session.load([0], PROMPTS[:1])
    written = listed(session.decode([0], np.array([3])))[0]
    other = [written[0], (written[1] + 1) % 200 + 2, 7]
    session.extend([0], [other])
    fresh.load([0], [PROMPTS[0] + other])
    np.testing.assert_allclose(session.hidden([0]), fresh.hidden([0]), atol=1e-4)
    session.decode([0], np.array([2]))
    session.load([0], [PROMPTS[1]])
    session.extend([0], [[8, 9]])
    fresh.load([0], [PROMPTS[1] + [8, 9]])
    np.testing.assert_allclose(session.hidden([0]), fresh.hidden([0]), atol=1e-4)


def test_a_span_ends_at_the_end_of_a_text_of_a_line_and_of_the_row(tiny_tokenizer):
    plain = LatentBackbone(tiny.make_spans(), tiny_tokenizer)
    whole = by_hand(plain, PROMPTS[0], 3)
    assert len(whole) == K
    lines = LatentBackbone(tiny.make_spans(span_ends=[whole[1]]), tiny_tokenizer)
    session = lines.session(1)
    session.load([0], PROMPTS[:1])
    assert listed(session.decode([0], np.array([3]))) == [whole[:2]]
    short = plain.session(1, max_length=len(PROMPTS[0]) + 2)
    short.load([0], PROMPTS[:1])
    assert listed(short.decode([0], np.array([3]))) == [whole[:2]]
    ended = LatentBackbone(tiny.make_spans(), tiny_tokenizer)
    ended.tokenizer.end_ids = frozenset({whole[0]})
    session = ended.session(1)
    session.load([0], PROMPTS[:1])
    assert listed(session.decode([0], np.array([3]))) == [whole[:1]]


@torch.no_grad()
def test_a_span_ends_in_the_states_in_which_a_text_is_divided_there(tiny_tokenizer):
    model = tiny.make_spans()
    backbone = LatentBackbone(model, tiny_tokenizer)
    text = [*PROMPTS[0], *by_hand(backbone, PROMPTS[0], 3)]
    h = model.hidden(torch.tensor([text]))
    entropy = torch.special.entr(model.lm_head(h).softmax(-1)).sum(-1)[0]
    start = len(PROMPTS[0])
    for written in (1, 2, 3):
        # No state is above it before that after ``written`` tokens.
        above = entropy[start : start + written - 1].max().item() if written > 1 else 0.0
        model.config.span_entropy = above + 1e-4
        session = backbone.session(2)
        session.load([0, 1], [PROMPTS[0], PROMPTS[1]])
        found = listed(session.decode([0, 1], np.array([3, 3])))[0]
        closing = model.closing(torch.tensor([text]), h)[0, start:]
        closed = closing.nonzero().flatten().tolist()
        assert found == text[start:][: closed[0] + 1 if closed else K]
        assert session.tokens[0] == PROMPTS[0]


@torch.no_grad()
def test_the_table_of_codes_has_every_phase_and_follows_its_weights():
    model = tiny.make_spans()
    table = code_table(model)
    assert table is not None
    h, codes = torch.randn(5, 32), torch.tensor([0, 3, 5, 15, 3])
    for phase in range(K):
        torch.testing.assert_close(
            table.world(h, codes, phase), model.world(h, codes, phase), atol=1e-4, rtol=0
        )
    assert model.phases is not None
    model.phases.weight.mul_(2)
    assert not table.holds()


def test_values_that_are_not_finite_name_their_row_and_leave_the_others(tiny_tokenizer):
    backbone = LatentBackbone(tiny.make_spans(), tiny_tokenizer)
    session = backbone.session(2)
    session.load([0, 1], PROMPTS[:2])
    assert backbone.model.phases is not None
    with torch.no_grad():
        backbone.model.phases.weight[1] = float("nan")
    with pytest.raises(NotFiniteError, match="row 0"):
        session.decode([0, 1], np.array([1, 2]))
    assert session.tokens == PROMPTS[:2]


class Short:
    """One segment, which ends at an ``e``."""

    stop = ("e",)

    def reset(self, rng: np.random.Generator) -> str:
        return f"Q: {rng.integers(1000)}"

    def step(self, text: str) -> Turn:
        return Turn(reward=float(len(text)))


def test_a_span_longer_than_the_budget_is_refused_and_the_last_is_cut(span_backbone):
    tasks = EachRow(Short, 1)
    with pytest.raises(ValueError, match=r"up to 3 tokens .* max_tokens=2"):
        Episodes(span_backbone, tasks, num_rows=1, max_tokens=2)
    episodes = Episodes(span_backbone, tasks, num_rows=1, max_tokens=4)
    for seed in range(20):
        episodes.reset([0], [seed])
        sizes = []
        while episodes.running(0):
            *_, infos = episodes.step([0], [seed % tiny.CODES])
            sizes.append(len(infos[0].get("tokens", (0,))))
        assert sum(sizes) == infos[0]["num_tokens"] <= 4
        if sizes == [3, 1]:
            return
    pytest.fail("no episode used up its budget")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_snapshot_between_spans_goes_on_as_the_episode_did(span_backbone, temperature):
    episodes = Episodes(
        span_backbone, EachRow(Short, 2), num_rows=2, max_tokens=30, world_temperature=temperature
    )
    codes = np.random.default_rng(1).integers(tiny.CODES, size=12).tolist()
    most = 0
    for seed in range(9):
        episodes.reset([0], [seed])
        episodes.step([0], codes[:1])
        if not episodes.running(0):
            continue
        state = episodes.snapshot(0)
        played = []
        for row in (0, 1):
            episodes.restore([row], [state])
            for code in codes[1:]:
                if episodes.running(row):
                    episodes.step([row], [code])
            played.append((episodes.tokens(row), episodes.origins(row), episodes.actions(row)))
        assert played[0] == played[1]
        most = max(most, episodes.num_steps(0))
    assert most > 2
