"""An episode advances, ends, is kept and is put back as the documentation says."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded

from cola_envs import Decoded, EachRow, Episodes, Turn
from cola_envs.segments import StopStrings, command_of
from cola_envs.testing import ByteTokenizer, FakeBackbone, FakeSession
from tests.envs.tiny import Copy, Counter, Talk, end, make, play, write

# ---------------------------------------------------------------- segments


def test_stop_string_ends_the_segment_and_belongs_to_it() -> None:
    episodes = make(Copy)
    episodes.reset([0], [0])
    steps = write(episodes, "ab.")
    assert [step[2] for step in steps] == [False, False, True]
    assert steps[-1][4]["text"] == "ab."
    assert steps[-1][4]["num_tokens"] == 3


def test_eos_ends_the_segment_and_its_text_is_left_out() -> None:
    episodes = make(Copy)
    episodes.reset([0], [0])
    write(episodes, "ab")
    _, _, terminated, _, info = end(episodes)
    assert terminated
    assert info["text"] == "ab"
    assert info["num_tokens"] == 3
    assert info["token"] == 0


def test_eos_is_left_out_of_the_text_even_where_the_tokenizer_shows_it() -> None:
    class Loud(ByteTokenizer):
        def decode(self, ids: Sequence[int]) -> str:
            return super().decode(ids) + "<eos>" * list(ids).count(0)

    backbone = FakeBackbone("token")
    backbone.tokenizer = Loud()
    episodes = Episodes(backbone, EachRow(Talk, 1), num_rows=1, max_tokens=9)
    episodes.reset([0], [0])
    write(episodes, "a")
    end(episodes)
    assert write(episodes, "b\nc\n")[-1][4]["text"] == "ab\nc\n"


def test_stop_string_that_ends_in_a_space_is_found_where_decoders_drop_the_first() -> None:
    class Dropping(ByteTokenizer):
        def decode(self, ids: Sequence[int]) -> str:
            return super().decode(ids).removeprefix(" ")

    tokenizer = Dropping()
    stops = StopStrings(tokenizer, ("go ",))
    ids = tokenizer.encode("x go y")
    texts = [stops.ended(token, ids[: i + 1], 0) for i, token in enumerate(ids[:5])]
    assert texts == [None] * 4 + ["x go "]


def test_stop_string_over_several_tokens_is_found() -> None:
    episodes = make(Talk)
    episodes.reset([0], [0])
    infos = [step[4] for step in write(episodes, "a > b</s>")]
    assert [info.get("turn") for info in infos] == [None] * 8 + [1]


def test_stop_string_of_a_character_split_over_tokens_is_found() -> None:
    class Wide(Copy):
        stop = ("终。",)

    episodes = make(Wide, max_tokens=50)
    episodes.reset([0], [0])
    steps = write(episodes, "é。终终。")
    assert [step[2] for step in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[-1][4]["text"] == "é。终终。"


def test_stop_string_does_not_reach_back_into_the_prompt_or_the_last_segment() -> None:
    class Split(Talk):
        stop = ("!\nx", "ab")

    episodes = make(Split)
    episodes.reset([0], [0])
    infos = [step[4] for step in write(episodes, "xab")]
    assert [info.get("turn") for info in infos] == [None, None, 1]
    assert [step[4].get("turn") for step in write(episodes, "b")] == [None]


def test_ordinary_steps_do_not_decode_and_the_last_of_a_segment_does_once() -> None:
    episodes = make(Copy)
    calls = []
    tokenizer = episodes.backbone.tokenizer
    decode = tokenizer.decode
    episodes.reset([0], [0])
    write(episodes, "abc")
    tokenizer.decode = lambda ids: calls.append(ids) or decode(ids)  # type: ignore[method-assign, func-returns-value]
    write(episodes, "cab")
    assert calls == []
    write(episodes, ".")
    assert [decode(ids) for ids in calls] == [".", "..", "abccab."], "the new token, and the segment"


# ---------------------------------------------------------------- turns


def test_task_text_is_appended_and_is_not_the_agents() -> None:
    episodes = make(Talk)
    episodes.reset([0], [0])
    assert episodes.prompt_length(0) == len("Talk!\n")
    write(episodes, "hi\nyo\n")
    text = episodes.backbone.tokenizer.decode(episodes.tokens(0))
    mine = [t for t, step in zip(episodes.tokens(0), episodes.origins(0), strict=True) if step >= 0]
    assert episodes.backbone.tokenizer.decode(mine) == "hi\nyo\n"
    assert text.startswith("Talk!\nhi\n[")
    assert "]yo\n[" in text
    assert episodes.actions(0) == mine


def test_session_holds_exactly_the_tokens_that_episodes_tell_of() -> None:
    episodes = make(Talk, num_rows=2)
    episodes.reset([0, 1], [0, 1])
    write(episodes, "hi\nyo\n", row=1)
    observation = episodes.observe([1])
    other = FakeBackbone("token").session(1)
    other.load([0], [episodes.tokens(1)])
    assert np.array_equal(other.hidden([0]), observation)


def test_eos_before_a_turn_that_is_not_done_goes_on() -> None:
    episodes = make(Talk)
    episodes.reset([0], [0])
    write(episodes, "hi")
    _, reward, terminated, truncated, info = end(episodes)
    assert (reward, terminated, truncated, info["turn"]) == (0.5, False, False, 1)
    write(episodes, "yo\n")
    last = write(episodes, "so\n")[-1]
    assert last[2]
    assert last[4]["text"] == "hiyo\nso\n"
    assert last[4]["num_tokens"] == 9


def test_rewards_are_paid_at_each_segment() -> None:
    episodes = make(Talk)
    episodes.reset([0], [0])
    assert [step[1] for step in write(episodes, "a\nb\n")] == [0.0, 0.5, 0.0, 0.5]


def test_segments_of_all_rows_reach_the_task_in_one_call() -> None:
    class Batch(EachRow):
        calls: tuple[tuple[list[int], list[str]], ...] = ()

        def step(self, rows, texts):
            self.calls += ((list(rows), list(texts)),)
            return super().step(rows, texts)

    tasks = Batch(Copy, 3)
    episodes = Episodes(FakeBackbone("token"), tasks, num_rows=3, max_tokens=8)
    episodes.reset([0, 1, 2], [0, 1, 2])
    stop, letter = episodes.backbone.tokenizer.encode(".a")
    _, _, terminated, _, _ = episodes.step([0, 1, 2], [stop, letter, stop])
    assert tasks.calls == (([0, 2], [".", "."]),)
    assert terminated.tolist() == [True, False, True]


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_is_an_error_and_stops_the_row(reward: float) -> None:
    class Broken(Copy):
        def step(self, text: str) -> Turn:
            return Turn(reward=reward)

    episodes = make(Broken)
    episodes.reset([0], [0])
    with pytest.raises(ValueError, match=r"row 0.*finite"):
        write(episodes, ".")
    with pytest.raises(ResetNeeded):
        write(episodes, "a")


def test_a_crashing_task_is_heard_and_leaves_other_rows_alone() -> None:
    class Broken(Copy):
        def step(self, text: str) -> Turn:
            raise RuntimeError("the grader is gone")

    episodes = make(Broken, num_rows=2)
    episodes.reset([0, 1], [0, 1])
    with pytest.raises(RuntimeError, match="the grader is gone"):
        write(episodes, ".")
    assert not episodes.running(0)
    assert episodes.running(1)
    write(episodes, "a", row=1)


# ---------------------------------------------------------------- ends


def test_spent_budget_is_graded_and_terminates() -> None:
    episodes = make(Copy, max_tokens=2)
    episodes.reset([0], [0])
    digit = episodes.tasks.info(0)["digit"]
    steps = write(episodes, "a" + digit)
    assert [step[1:4] for step in steps] == [(0.0, False, False), (1.0, True, False)]
    assert steps[-1][4]["success"] is True


def test_spent_budget_is_cut_ungraded_and_truncates() -> None:
    episodes = make(Copy, max_tokens=2, budget_end="truncate")
    episodes.reset([0], [0])
    digit = episodes.tasks.info(0)["digit"]
    _, reward, terminated, truncated, info = write(episodes, "a" + digit)[-1]
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["text"] == "a" + digit
    assert info["success"] is False
    assert info["num_tokens"] == 2


@pytest.mark.parametrize("budget_end", ["terminate", "truncate"])
def test_a_segment_that_ends_with_the_budget_is_graded(budget_end: str) -> None:
    episodes = make(Copy, max_tokens=2, budget_end=budget_end)
    episodes.reset([0], [0])
    digit = episodes.tasks.info(0)["digit"]
    assert write(episodes, digit + ".")[-1][1:4] == (1.0, True, False)


def test_budget_counts_the_agents_tokens_over_the_episode() -> None:
    for budget_end, ends in (("terminate", (True, False)), ("truncate", (False, True))):
        episodes = make(Talk, max_tokens=4, budget_end=budget_end)
        episodes.reset([0], [0])
        steps = write(episodes, "a\nb\n")
        assert [step[2:4] for step in steps] == [(False, False)] * 3 + [ends]
        assert steps[-1][1] == 0.5
        assert steps[-1][4]["num_tokens"] == 4


def test_success_of_a_task_that_is_not_done_is_not_assumed() -> None:
    episodes = make(Talk, max_tokens=2)
    episodes.reset([0], [0])
    assert write(episodes, "a\n")[-1][4]["success"] is False


def test_full_context_truncates_ungraded() -> None:
    prompt = len("Write 0:")
    episodes = make(Copy, max_length=prompt + 3)
    episodes.reset([0], [0])
    steps = write(episodes, episodes.tasks.info(0)["digit"] * 3)
    assert [step[1:4] for step in steps] == [(0.0, False, False)] * 2 + [(0.0, False, True)]
    assert len(episodes.tokens(0)) == prompt + 3


def test_task_text_that_does_not_fit_truncates_after_its_reward() -> None:
    episodes = make(Talk, max_length=len("Talk!\n") + 4)
    episodes.reset([0], [0])
    assert write(episodes, "a\n")[-1][1:4] == (0.5, False, True)
    assert episodes.backbone.tokenizer.decode(episodes.tokens(0)) == "Talk!\na\n"


def test_a_context_that_a_silent_turn_leaves_full_truncates() -> None:
    class Silent(Talk):
        def step(self, text: str) -> Turn:
            return Turn(reward=0.5, done=False)

    episodes = make(Silent, max_length=len("Talk!\n") + 2)
    episodes.reset([0], [0])
    assert write(episodes, "a\n")[-1][1:4] == (0.5, False, True)


def test_end_info_holds_the_tasks_fields() -> None:
    episodes = make(Copy)
    episodes.reset([0], [3])
    info = write(episodes, "a.")[-1][4]
    assert info.keys() == {"token", "action", "text", "success", "num_tokens", "digit", "length"}
    assert info["length"] == 2
    assert episodes.reset_infos([0])[0].keys() == {"prompt", "prompt_format", "digit"}


class Tagged(str):
    """A text with a list that can change."""

    def __init__(self, text: str) -> None:
        self.tags = [text]


class Holder:
    def __init__(self) -> None:
        self.held = [0]


@pytest.mark.parametrize(
    ("field", "inner"),
    [
        (["a"], lambda field: field),
        ({"a": [0]}, lambda field: field["a"]),
        ((1, ("b", [0])), lambda field: field[1][1]),
        (np.zeros(2), lambda field: field),
        (Holder(), lambda field: field.held),
        (Tagged("a"), lambda field: field.tags),
    ],
    ids=["list", "dict", "tuple", "array", "object", "derived text"],
)
def test_the_info_that_a_user_keeps_shares_nothing_with_the_tasks_own(field: Any, inner: Any) -> None:
    tasks = EachRow(Copy, 1)
    task: Any = tasks.tasks[0]
    task.info = {"plain": "a", "field": field}
    info: Any = tasks.info(0)
    assert type(info["field"]) is type(field)
    assert inner(info["field"]) is not inner(field)
    assert np.array_equal(inner(info["field"]), inner(field))


def test_info_of_plain_fields_is_a_dict_of_the_users_own() -> None:
    tasks = EachRow(Copy, 1)
    task: Any = tasks.tasks[0]
    task.info = own = {
        "text": "a",
        "number": 1,
        "share": 0.5,
        "truth": True,
        "none": None,
        "pair": (1, ("b",)),
    }
    info = tasks.info(0)
    assert info == own
    assert [type(value) for value in info.values()] == [type(value) for value in own.values()]
    own["text"] = "b"
    assert info["text"] == "a"


# ---------------------------------------------------------------- actions of several tokens


def test_an_action_of_several_tokens_is_one_step() -> None:
    episodes = make(Copy, level="latent", tokens_per_action=3, max_tokens=7)
    episodes.reset([0], [1])
    over = False
    infos: list[Any] = []
    while not over:
        _, _, terminated, truncated, info = (part[0] for part in episodes.step([0], [len(infos) % 8]))
        infos.append(info)
        over = bool(terminated or truncated)
    chunks = [info.get("tokens", (info["token"],)) for info in infos]
    written = [token for chunk in chunks for token in chunk]
    assert all(chunk[0] == info["token"] for chunk, info in zip(chunks, infos, strict=True))
    assert any(len(chunk) == 3 for chunk in chunks)
    pairs = zip(episodes.tokens(0), episodes.origins(0), strict=True)
    assert [token for token, step in pairs if step >= 0] == written
    assert infos[-1]["num_tokens"] == len(written) <= 7
    assert len(episodes.actions(0)) == len(infos)


@pytest.mark.parametrize(
    ("ids", "settings", "kept"),
    [
        ("a.b", {}, "a."),
        ("a\0b", {}, "a\0"),
        ("abc", {"max_tokens": 2}, "ab"),
        ("abc", {"max_length": 9}, "a"),
    ],
)
def test_a_chunk_is_cut_after_the_id_that_ends(ids: str, settings: dict[str, int], kept: str) -> None:
    def encode(text: str) -> list[int]:
        return [0 if char == "\0" else ord(char) + 1 for char in text]

    class Chunky(FakeSession):
        def decode(self, rows, actions, u=None, temperature=0.0):
            return Decoded([np.array(encode(ids)) for _ in rows])

    class Backbone(FakeBackbone):
        def session(self, num_rows, max_length=None):
            return Chunky(self, num_rows, self.max_length)

    backbone = Backbone(max_length=settings.get("max_length", 100))
    episodes = Episodes(backbone, EachRow(Copy, 1), num_rows=1, max_tokens=settings.get("max_tokens", 10))
    episodes.reset([0], [0])
    info = episodes.step([0], [0])[4][0]
    assert not episodes.running(0)
    assert episodes.tokens(0)[len("Write 0:") :] == encode(kept)
    assert info["text"] == kept.removesuffix("\0")
    assert ("tokens" in info) == (len(kept) > 1)


# ---------------------------------------------------------------- randomness


def test_a_row_depends_on_its_seed_and_actions_alone() -> None:
    actions = np.random.default_rng(0).integers(0, 8, size=(40, 5))
    for temperature in (0.0, 1.0):
        alone = [
            play(
                make(Talk, level="latent", world_temperature=temperature), 0, seed, actions[:, seed].tolist()
            )
            for seed in range(5)
        ]
        episodes = make(Talk, num_rows=5, level="latent", world_temperature=temperature)
        episodes.reset([4, 2, 0], [4, 2, 0])
        episodes.reset([1, 3], [1, 3])
        together: list[list[Any]] = [[episodes.tokens(row)] for row in range(5)]
        for step in actions:
            rows = [row for row in (3, 0, 4, 1, 2) if episodes.running(row)]
            if rows:
                _, rewards, terminated, truncated, infos = episodes.step(rows, step[rows])
                for i, row in enumerate(rows):
                    together[row].append((rewards[i], terminated[i], truncated[i], infos[i]))
        assert together == alone


def test_no_random_number_is_drawn_from_a_deterministic_world() -> None:
    episodes = make(Copy, level="latent")
    episodes.reset([0], [0])
    episodes.step([0], [1])
    assert episodes.snapshot(0).world_rng is None


def test_a_group_shares_its_problem_and_not_its_sampling() -> None:
    episodes = make(Copy, num_rows=6, level="latent", world_temperature=2.0)
    rows = list(range(6))
    episodes.reset(rows, rows, [9] * 6)
    assert len({tuple(episodes.tokens(row)) for row in rows}) == 1
    tokens = [info["token"] for info in episodes.step(rows, [1] * 6)[4]]
    assert len(set(tokens)) > 1
    alone = make(Copy)
    alone.reset([0], [9])
    assert alone.tokens(0) == episodes.tokens(0)[: len(alone.tokens(0))]


def test_prior_coef_adds_the_log_prior_of_the_action_taken() -> None:
    plain, shaped = make(Copy, level="latent"), make(Copy, level="latent", prior_coef=0.5)
    for episodes in (plain, shaped):
        episodes.reset([0], [0])
    prior = plain.session.prior([0])
    assert np.exp(prior).sum() == pytest.approx(1.0, abs=1e-5)
    difference = shaped.step([0], [3])[1] - plain.step([0], [3])[1]
    assert difference == pytest.approx(0.5 * prior[0, 3])


def test_observation_features_are_the_sessions() -> None:
    episodes = make(Copy, level="latent", observation="features")
    observation = episodes.reset([0], [0])
    assert np.array_equal(observation, episodes.session.features([0]))
    assert not np.array_equal(observation, episodes.session.hidden([0]))


# ---------------------------------------------------------------- snapshots


@pytest.mark.parametrize("factory", [Copy, Talk, Counter])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_restored_episode_replays(factory: type, temperature: float) -> None:
    episodes = make(factory, num_rows=2, level="latent", world_temperature=temperature, max_tokens=60)
    actions = np.random.default_rng(1).integers(0, 8, size=60).tolist()
    whole = play(episodes, 0, 5, actions)
    for cut in range(0, len(whole) - 1, 3):
        play(episodes, 0, 5, actions[:cut])
        state = pickle.loads(pickle.dumps(episodes.snapshot(0)))
        seen = episodes.observe([0])
        episodes.reset([0, 1], [7, 8])
        for row in (1, 0):
            assert np.array_equal(episodes.restore([row], [state]), seen)
            rest = []
            for action in actions[cut : len(whole) - 1]:
                _, rewards, terminated, truncated, infos = episodes.step([row], [action])
                rest.append((float(rewards[0]), bool(terminated[0]), bool(truncated[0]), infos[0]))
            assert rest == whole[1 + cut :]


def test_forks_of_one_state_go_their_own_ways() -> None:
    for factory in (Counter, Talk):
        episodes = make(factory, num_rows=3)
        episodes.reset([0], [0])
        write(episodes, "a.\n")
        state = episodes.snapshot(0)
        episodes.restore([1, 2], [state, state])
        write(episodes, "b.\n", row=1)
        mine = write(episodes, "c.\n", row=2)
        alone = make(factory)
        alone.reset([0], [0])
        assert [step[1:] for step in mine] == [step[1:] for step in write(alone, "a.\nc.\n")[3:]]


def test_a_reseeded_fork_keeps_its_text_and_samples_anew() -> None:
    episodes = make(Copy, num_rows=8, level="latent", world_temperature=2.0, max_tokens=60)
    rows = list(range(8))
    episodes.reset([0], [0])
    episodes.step([0], [1])
    state = episodes.snapshot(0)
    for reseed, several in ((None, False), (rows, True)):
        episodes.restore(rows, [state] * 8, reseed)
        assert {tuple(episodes.tokens(row)) for row in rows} == {state.tokens}
        tokens = [info["token"] for info in episodes.step(rows, [2] * 8)[4]]
        assert (len(set(tokens)) > 1) is several


def test_a_snapshot_of_an_ended_episode_stays_ended() -> None:
    episodes = make(Copy)
    episodes.reset([0], [0])
    write(episodes, ".")
    state = episodes.snapshot(0)
    episodes.reset([0], [1])
    episodes.restore([0], [state])
    with pytest.raises(ResetNeeded, match="over"):
        write(episodes, "a")


def test_states_that_do_not_fit_are_refused_before_anything_is_lost() -> None:
    long = make(Copy, max_tokens=20)
    long.reset([0], [0])
    write(long, "abcdef")
    state = long.snapshot(0)
    small, short = make(Copy, max_tokens=6), make(Copy, max_length=14)
    for episodes, message in ((small, "spent 6 tokens"), (short, "holds 14")):
        episodes.reset([0], [1])
        before = episodes.tokens(0)
        with pytest.raises(ValueError, match=message):
            episodes.restore([0], [state])
        assert episodes.tokens(0) == before
        write(episodes, "a")
    with pytest.raises(TypeError, match="what snapshot returned"):
        small.restore([0], ["state"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="one state a row"):
        small.restore([0], [])


@pytest.mark.parametrize("factory", [Copy, Counter])
def test_a_state_of_another_task_is_refused_by_name_before_anything_is_lost(factory: type) -> None:
    there, here = make(factory), make(Talk)
    for episodes in (there, here):
        episodes.reset([0], [0])
    with pytest.raises(ValueError, match=f"the state is of {factory.__name__}, and here it is Talk: restore"):
        here.restore([0], [there.snapshot(0)])
    with pytest.raises(TypeError, match="restore takes what snapshot of the same task returned, got 1"):
        here.restore([0], [dataclasses.replace(there.snapshot(0), task=1)])
    write(here, "a")


def test_a_replay_that_differs_names_both_prompts_and_the_arguments() -> None:
    class Greeting(Talk):
        def __init__(self, greeting: str = "Talk!\n", turns: int = 3) -> None:
            super().__init__(turns)
            self.greeting = greeting

        def reset(self, rng: np.random.Generator) -> str:
            super().reset(rng)
            return self.greeting

    there = make(Greeting)
    there.reset([0], [0])
    write(there, "Hi\n")
    for factory, message in (
        (
            lambda: Greeting("Hello!\n"),
            r"other turns, the prompt 'Hello!\\n' in place of 'Talk!\\n'\. Restore",
        ),
        (
            lambda: Greeting(turns=1),
            r"gave other turns\. Restore a state into an environment with",
        ),
    ):
        here = make(factory)
        here.reset([0], [0])
        with pytest.raises(RuntimeError, match=message):
            here.restore([0], [there.snapshot(0)])
        with pytest.raises(ResetNeeded):
            here.step([0], [1])


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([1, 71], r"action 71 is outside Discrete\(8\); is this a token id\? Use CoLA-Math500-Token-v0\."),
        ([1, -1], r"action -1 is outside Discrete\(8\)$"),
        ([1, 2**70], "is outside"),
        ([1, None], "None"),
        ([1, "2"], "not an integer"),
        ([1.0, 2.0], r"1.0 \(float\) is not an integer"),
        ([True, False], r"True \(bool\) is not an integer"),
        ([1], "expected 2"),
        ([[1, 2]], "expected 2"),
        ([[1], [1, 2]], "expected 2"),
        (None, "None"),
    ],
)
def test_bad_actions_are_refused_before_anything_changes(actions: object, message: str) -> None:
    episodes = make(Copy, num_rows=2, level="latent", world_temperature=1.0)
    episodes.name_twin("CoLA-Math500-Token-v0")
    episodes.reset([0, 1], [0, 1])
    before = [episodes.snapshot(row) for row in (0, 1)]
    with pytest.raises(InvalidAction, match=message):
        episodes.step([0, 1], actions)
    assert [episodes.snapshot(row) for row in (0, 1)] == before


def test_token_ids_beyond_the_tokenizer_are_not_actions() -> None:
    episodes = make(Copy)
    episodes.reset([0], [0])
    with pytest.raises(InvalidAction, match=r"action 258 is not allowed.*257 actions"):
        episodes.step([0], [258])
    with pytest.raises(InvalidAction, match=r"action 260 is outside Discrete\(260\)$"):
        episodes.step([0], [260])


def test_step_before_reset_and_after_the_end_needs_a_reset() -> None:
    episodes = make(Copy, num_rows=2)
    with pytest.raises(ResetNeeded, match="row 0 has not been reset"):
        episodes.step([0], [1])
    episodes.reset([0], [0])
    with pytest.raises(ResetNeeded, match="row 1 has not been reset"):
        episodes.step([0, 1], [98, 98])
    write(episodes, ".")
    with pytest.raises(ResetNeeded, match="episode in row 0 is over"):
        episodes.step([0], [98])
    for read in (episodes.tokens, episodes.snapshot):
        with pytest.raises(ResetNeeded):
            read(1)


def test_a_prompt_longer_than_the_context_names_both_lengths_and_spares_other_rows() -> None:
    class Long(Copy):
        def reset(self, rng: np.random.Generator) -> str:
            return "x" * int(rng.integers(2, 40))

    seeds = {
        len(prompt): seed
        for seed in range(200)
        for prompt in [Long().reset(np.random.default_rng([seed, 1]))]
    }
    episodes = make(Long, num_rows=2, max_length=20)
    episodes.reset([0, 1], [seeds[5], seeds[19]])
    write(episodes, "a")
    for length in (20, 30):
        with pytest.raises(ValueError, match=rf"row 1 has {length} tokens and the context holds 20"):
            episodes.reset([1], [seeds[length]])
        with pytest.raises(ResetNeeded):
            write(episodes, "a", row=1)
    write(episodes, "a")
    assert len(episodes.tokens(0)) == 7


def test_prompts_without_text_are_refused() -> None:
    for prompt, error in (("", ValueError), (None, TypeError)):
        task = type("Silent", (Copy,), {"reset": lambda self, rng, prompt=prompt: prompt})
        with pytest.raises(error, match="prompt"):
            make(task).reset([0], [0])


@pytest.mark.parametrize("verb", ["decode", "extend", "hidden"])
def test_values_that_are_not_finite_name_row_and_step(verb: str) -> None:
    class Poisoned(FakeSession):
        def fail(self, *args, **kwargs):
            error = FloatingPointError("NaN logits in row 1 after token 7")
            error.row = 1  # type: ignore[attr-defined]
            raise error

    episodes = make(Copy, num_rows=2)
    episodes.reset([0, 1], [0, 1])
    episodes.step([0, 1], [98, 98])
    poisoned = Poisoned(episodes.backbone, 2, 100)  # type: ignore[arg-type]
    setattr(episodes.session, verb, poisoned.fail)
    episodes._observe = episodes.session.hidden
    with pytest.raises(FloatingPointError, match=r"NaN logits in row 1 after token 7 \(at step 2 of row 1\)"):
        episodes.step([0, 1], [98, 98])
    assert episodes.running(0) is (verb == "decode")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_tokens": 0}, ValueError),
        ({"max_tokens": 1.5}, TypeError),
        ({"budget_end": "stop"}, ValueError),
        ({"observation": "text"}, ValueError),
        ({"world_temperature": -1.0}, ValueError),
        ({"world_temperature": "hot"}, TypeError),
        ({"prior_coef": float("nan")}, ValueError),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        make(Copy, **settings)


@pytest.mark.parametrize("rows", [[], [0, 0], [2], [-1]])
def test_rows_must_be_different_and_exist(rows: list[int]) -> None:
    episodes = make(Copy, num_rows=2)
    with pytest.raises(ValueError, match="row"):
        episodes.reset(rows, [0] * len(rows))


@pytest.mark.parametrize("seeds", [[-1], [1.5], [True], [1, 2], ["a"]])
def test_seeds_must_be_whole_numbers_one_a_row(seeds: list[int]) -> None:
    with pytest.raises(ValueError, match="seeds"):
        make(Copy).reset([0], seeds)
    with pytest.raises(ValueError, match="problem_seeds"):
        make(Copy).reset([0], [0], seeds)


def test_closing_twice_is_allowed_and_a_reset_starts_anew() -> None:
    episodes = make(Copy)
    episodes.reset([0], [0])
    episodes.close()
    episodes.close()
    with pytest.raises(ResetNeeded):
        episodes.step([0], [1])
    episodes.reset([0], [0])
    episodes.step([0], [1])


def test_a_factory_that_shares_its_task_is_refused() -> None:
    shared = Copy()
    with pytest.raises(ValueError, match="one task for several rows"):
        make(lambda: shared, num_rows=2)


class Opened(Copy):
    """Counts its open tasks; some fail when they are made, and some when they are closed."""

    open: list[int] = []  # noqa: RUF012 (set by the tests)
    fails_at: tuple[int, ...] = ()
    stops: tuple[Any, ...] = ((".",),)
    closing_fails: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.number = len(self.open)
        if self.number in self.fails_at:
            raise OSError(f"no task {self.number}")
        self.stop = self.stops[min(self.number, len(self.stops) - 1)]
        self.open.append(self.number)

    def close(self) -> None:
        self.open.remove(self.number)
        if self.number in self.closing_fails:
            raise OSError(f"task {self.number} does not close")


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"fails_at": (2,)}, OSError, "no task 2"),
        ({"fails_at": (2,), "closing_fails": (0, 1)}, OSError, "no task 2"),
        ({"stops": ((".",), ("!",))}, ValueError, "the same stop strings"),
        (
            {"stops": ((".",), (".",), None)},
            TypeError,
            "task.stop must be a tuple of non-empty strings, got None",
        ),
        ({"stops": (5,)}, TypeError, "task.stop must be a tuple of non-empty strings, got 5"),
        ({"stops": (("",),)}, TypeError, "task.stop must be"),
        ({"reset": None}, TypeError, "has no reset"),
    ],
)
def test_tasks_that_were_made_before_an_error_are_closed(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    made: Any = type("Made", (Opened,), {"open": [], **fields})
    with pytest.raises(error, match=message):
        make(made, num_rows=3)
    assert made.open == []


def test_one_task_given_twice_is_closed_once() -> None:
    made: Any = type("Made", (Opened,), {"open": []})
    shared = made()
    with pytest.raises(ValueError, match="one task for several rows"):
        make(lambda: shared, num_rows=2)
    assert made.open == []


def test_every_task_is_closed_though_one_fails_and_the_first_error_is_raised() -> None:
    made: Any = type("Made", (Opened,), {"open": [], "closing_fails": (0, 2)})
    episodes = make(made, num_rows=4)
    with pytest.raises(OSError, match="task 0 does not close"):
        episodes.close()
    assert made.open == []


@pytest.mark.parametrize("num_rows", [0, 1.0, True])
def test_a_number_of_rows_that_is_none_is_refused(num_rows: Any) -> None:
    with pytest.raises(ValueError, match="num_rows must be "):
        EachRow(Copy, num_rows)


def test_a_prompt_that_is_not_unicode_is_named() -> None:
    episodes = make(type("Bad", (Copy,), {"reset": lambda self, rng: "a\ud800"}))
    with pytest.raises(
        ValueError, match=r"the prompt that task.reset returns in row 0 .* is not Unicode text"
    ):
        episodes.reset([0], [0])


def test_a_turn_that_the_task_cuts_truncates_whatever_done_and_the_budget_say() -> None:
    class Cut(Copy):
        def step(self, text: str) -> Turn:
            return Turn(reward=1.0, truncated=True, info={"error": "the engine stopped"})

    for max_tokens in (8, 2):  # with tokens to spare, and with the budget spent by the same token
        episodes = make(Cut, max_tokens=max_tokens)
        episodes.reset([0], [0])
        _, reward, terminated, truncated, info = write(episodes, "a.")[-1]
        assert (reward, terminated, truncated) == (1.0, False, True)
        assert not info["success"]
        assert info["error"] == "the engine stopped"


@pytest.mark.parametrize("text", ["go\n", "\ngo\n", "\n\n go", "go\nlook\n"])
def test_a_command_is_the_first_line_behind_newlines(text):
    assert command_of(text).strip() == "go"


def test_a_newline_that_is_a_token_of_its_own_is_an_empty_command() -> None:
    env = gym.make("CoLA-TextRooms-Token-v0", model=FakeBackbone("token"))
    env.reset(seed=0)
    *_, info = env.step(11)
    assert (info["command"], info["valid"], info["commands"]) == ("", False, 1)


def test_a_state_of_the_other_level_is_refused() -> None:
    """Its actions would be taken for ids of tokens."""
    there, here = make(Copy, level="latent"), make(Copy)
    for episodes in (there, here):
        episodes.reset([0], [0])
    with pytest.raises(
        ValueError, match=r"the state's actions are of the latent level, .* of the token level"
    ):
        here.restore([0], [there.snapshot(0)])
    here.restore([0], [dataclasses.replace(there.snapshot(0), level="")])  # of an earlier version
