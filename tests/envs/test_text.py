"""Where texts end and contexts begin, for tokenizers that say so and for those that do not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from cola_envs import EachRow, Episodes
from cola_envs.render import transcript
from cola_envs.testing import FakeBackbone
from cola_envs.testing.fake import ByteTokenizer
from cola_envs.text import end_ids, largest_id, with_start_ids
from tests.envs.tiny import Talk, write

TURN_END, START, OTHER = ord("$") + 1, ord("^") + 1, ord("~") + 1


class Several(ByteTokenizer):
    """Ends texts by ids 0 and ``$``, and begins contexts by ``^``."""

    end_ids = (0, TURN_END)
    start_ids = (START,)
    largest_id = 300

    def decode(self, ids: Sequence[int]) -> str:
        return super().decode([token for token in ids if token != TURN_END])


def make(tokenizer: Any, **kwargs: Any) -> Episodes:
    backbone = FakeBackbone("token")
    backbone.tokenizer = tokenizer
    return Episodes(backbone, EachRow(Talk, 1), num_rows=1, max_tokens=32, **kwargs)


def test_a_tokenizer_that_says_no_more_than_the_protocol_asks_goes_on_to_work():
    plain = ByteTokenizer()
    assert end_ids(plain) == {0}
    assert largest_id(plain) == 256
    assert with_start_ids(plain, [1, 2]) == [1, 2]
    plain.eos_token_id = None
    assert end_ids(plain) == frozenset()


def test_each_of_several_ends_ends_a_segment_and_is_left_out():
    episodes = make(Several())
    episodes.reset([0], [0])
    infos = [step[4] for step in write(episodes, "ab$")]
    assert [info.get("turn") for info in infos] == [None, None, 1]
    episodes.step([0], [TURN_END])
    write(episodes, "c")
    *_, (info,) = episodes.step([0], [0])
    assert info["text"] == "abc"


def test_what_follows_an_end_in_one_action_never_reaches_the_task():
    class Chunks:
        """A session whose every action gives ``a$~``."""

        def __init__(self, session: Any) -> None:
            self._session = session

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

        def decode(self, rows: Sequence[int], *_: Any) -> Any:
            decoded = self._session.decode(rows, [1] * len(rows))
            decoded.tokens[:] = [decoded.tokens[0].repeat(3) * 0 + (ord("a") + 1, TURN_END, OTHER)] * len(
                rows
            )
            return decoded

    episodes = make(Several())
    episodes.session = Chunks(episodes.session)
    episodes.reset([0], [0])
    episodes.step([0], [1])
    assert OTHER not in episodes.tokens(0)
    assert episodes.snapshot(0).segments == ("a",)


def test_a_context_begins_once_and_at_its_start_alone():
    episodes = make(Several())
    episodes.reset([0], [0])
    write(episodes, "ab$")
    assert episodes.tokens(0)[0] == START
    assert episodes.tokens(0).count(START) == 1
    assert episodes.prompt_length(0) == 1 + len("Talk!\n")
    assert with_start_ids(Several(), [START, 5]) == [START, 5]
    assert with_start_ids(Several(), []) == [START]


def test_a_prompt_that_fits_only_without_its_beginning_is_refused():
    backbone = FakeBackbone("token", max_length=len("Talk!\n") + 1)
    Episodes(backbone, EachRow(Talk, 1), num_rows=1, max_tokens=1).reset([0], [0])
    backbone.tokenizer = Several()
    with pytest.raises(ValueError, match="has 7 tokens and the context holds 7"):
        Episodes(backbone, EachRow(Talk, 1), num_rows=1, max_tokens=1).reset([0], [0])


def test_observed_ids_reach_to_the_largest_that_the_tokenizer_names():
    assert make(Several(), observation="tokens").observation_space.high.max() == 300
    assert make(ByteTokenizer(), observation="tokens").observation_space.high.max() == 256


def test_a_transcript_has_the_spaces_that_a_decoder_drops_in_front_of_a_text():
    class Dropping(ByteTokenizer):
        def decode(self, ids: Sequence[int]) -> str:
            return super().decode(ids).removeprefix(" ")

    episodes = make(Dropping())
    episodes.reset([0], [0])
    write(episodes, "a b  é")
    assert re.sub("⟨.*?⟩", "", transcript(episodes, 0)) == "Talk!\na b  é"


def test_a_restored_row_shows_the_prompt_as_the_task_gave_it():
    class Dollar(Talk):
        def reset(self, rng: Any) -> str:
            return super().reset(rng) + "$"

    backbone = FakeBackbone("token")
    backbone.tokenizer = Several()
    episodes = Episodes(backbone, EachRow(Dollar, 2), num_rows=2, max_tokens=8)
    episodes.reset([0], [0])
    episodes.restore([1], [episodes.snapshot(0)])
    assert [info["prompt"] for info in episodes.reset_infos([0, 1])] == ["Talk!\n$", "Talk!\n$"]
