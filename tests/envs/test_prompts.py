"""Prompt formats: plain text and conversations in a chat template."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Mapping, Sequence

import gymnasium as gym
import numpy as np
import pytest

from cola_envs.build import load
from cola_envs.prompts import ChatFormat, Message, PlainFormat, prompt_format
from cola_envs.shots import as_lists, read_shots
from cola_envs.task import TaskBatch, Turn
from cola_envs.tasks.countdown import CountdownTask
from cola_envs.tasks.math500 import Math500
from cola_envs.testing import ByteTokenizer, FakeBackbone
from tests.package_ids import PACKAGE_IDS

OPEN, CLOSE, FIRST = 257, 258, 257


class ChatBytes(ByteTokenizer):
    """Bytes, and two markers of a conversation; a turn is ``OPEN role: content CLOSE``."""

    has_chat_template = True
    special_ids = frozenset({OPEN, CLOSE})
    end_ids = frozenset({0, CLOSE})

    def __len__(self) -> int:
        return 259

    def encode(self, text: str) -> list[int]:
        marked = text.encode().replace(b"[[", bytes([OPEN - FIRST])).replace(b"]]", bytes([CLOSE - FIRST]))
        return [FIRST + byte if byte < 2 else byte + 1 for byte in marked]

    def decode(self, ids: Sequence[int]) -> str:
        marks = {OPEN: "[[", CLOSE: "]]"}
        return "".join(marks.get(i) or bytes([i - 1]).decode("latin-1") for i in ids if i not in self.end_ids)

    def spell(self, ids: Sequence[int]) -> str:
        marks = {OPEN: "[[", CLOSE: "]]"}
        return "".join(marks.get(i) or bytes([i - 1]).decode("latin-1") for i in ids)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        chat_template_kwargs: Mapping[str, object],
    ) -> str:
        turns = "".join(f"[[{m['role']}: {m['content']}]]" for m in messages)
        think = "" if chat_template_kwargs.get("think", True) else "(no thoughts)"
        return turns + ("[[assistant: " + think if add_generation_prompt else "")


class Untuned(ChatBytes):
    end_ids = frozenset({0})


class Echo:
    """Answers every segment with a text of its own, three times."""

    stop = ("!",)
    plain_frame = ("Q: ", "\nA:")

    def reset(self, rng: object) -> str:
        self.turns = 0
        return "Q: hello\nA:"

    def step(self, text: str) -> Turn:
        self.turns += 1
        return Turn(f"\nQ: {text}?\nA:", done=self.turns == 3)


def backbone(tokenizer: ByteTokenizer) -> FakeBackbone:
    made = FakeBackbone("token")
    made.tokenizer = tokenizer
    return made


def test_a_chat_prompt_is_a_user_turn_without_the_frame_of_plain_text() -> None:
    chat = ChatFormat(ChatBytes(), "Be brief.", [[("Q: 1\nA:", " one")]], ("Q: ", "\nA:"), {"think": False})
    text = ChatBytes().spell(chat.first("Q: hello\nA:"))
    assert text == (
        "[[system: Be brief.]][[user: 1]][[assistant: one]][[user: hello]][[assistant: (no thoughts)"
    )


def test_the_end_marker_of_a_turn_stands_once_whoever_wrote_it() -> None:
    chat = ChatFormat(ChatBytes())
    after_stop, after_marker = chat.next("go", [66], False), chat.next("go", [66, CLOSE], False)
    assert ChatBytes().spell(after_stop) == "]][[user: go]][[assistant: "
    assert after_stop == [CLOSE, *after_marker]
    assert chat.next("", [66], True) == []


def test_text_before_the_end_marker_of_a_turn_comes_with_it_and_hides_no_marker() -> None:
    class Closes(ChatBytes):
        def chat(self, messages, **settings) -> str:
            rendered = super().chat(messages, **settings)
            return re.sub(r"(\[\[assistant: [^][]*)\]\]", r"\1\n-- end\n]]", rendered)

    chat = prompt_format(Closes())
    assert isinstance(chat, ChatFormat)
    assert (chat.marker, Closes().spell(chat.ending)) == (CLOSE, "\n-- end\n]]")
    assert Closes().spell(chat.next("go", [66], False)) == "\n-- end\n]][[user: go]][[assistant: "
    assert Closes().spell(chat.next("go", [66, CLOSE], False)) == "[[user: go]][[assistant: "


def test_the_mark_of_the_next_assistants_turn_ends_none() -> None:
    class Unmarked(ChatBytes):
        def chat(self, messages, **settings) -> str:
            return "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "[[assistant: "

    assert ChatFormat(Unmarked()).marker is None
    assert ChatFormat(Unmarked()).end_ids == Unmarked.end_ids


def test_an_episode_in_chat_format_alternates_turns_and_keeps_the_agents_ids() -> None:
    env = gym.make(
        "CoLA-Text-Token-v0", task=Echo, model=backbone(ChatBytes()), max_tokens=9, prompt_format="chat"
    )
    _, info = env.reset(seed=0)
    assert (info["prompt_format"], info["prompt"]) == ("chat", "Q: hello\nA:")
    for action in (*ChatBytes().encode("ab!"), *ChatBytes().encode("c"), CLOSE):
        env.step(action)
    tokens = env.unwrapped.episodes.tokens(0)
    assert ChatBytes().spell(tokens) == (
        "[[user: hello]][[assistant: ab!]][[user: Q: ab!?]][[assistant: c]][[user: Q: c?]][[assistant: "
    )


def test_the_end_marker_ends_a_segment_of_a_model_that_does_not_end_its_texts_with_it() -> None:
    env = gym.make(
        "CoLA-Text-Token-v0", task=Echo, model=backbone(Untuned()), max_tokens=9, prompt_format="chat"
    )
    env.reset(seed=0)
    env.step(66)
    env.step(CLOSE)
    assert env.unwrapped.episodes.tasks.tasks[0].turns == 1


@pytest.mark.parametrize(
    ("tokenizer", "name"), [(ByteTokenizer(), "plain"), (ChatBytes(), "chat"), (Untuned(), "plain")]
)
def test_the_default_format_is_that_which_the_model_was_tuned_for(
    tokenizer: ByteTokenizer, name: str
) -> None:
    assert prompt_format(tokenizer).name == name


def test_shots_stand_in_front_of_a_plain_prompt() -> None:
    plain = PlainFormat(ByteTokenizer(), "Be brief.", [[("Q: 1\nA:", " one")]])
    assert ByteTokenizer().decode(plain.first("Q: 2\nA:")) == "Be brief.\n\nQ: 1\nA: one\n\nQ: 2\nA:"


GAME = [("Goal: win.\n>", " look\n"), ("A door.\n>", " open door")]


def test_a_worked_example_of_several_turns_reads_as_the_game_does_in_either_format() -> None:
    plain = PlainFormat(ByteTokenizer(), None, [GAME])
    assert (
        ByteTokenizer().decode(plain.first("Goal: win.\n>"))
        == "Goal: win.\n> look\nA door.\n> open door\n\nGoal: win.\n>"
    )
    chat = ChatFormat(ChatBytes(), None, [GAME], frame=("", "\n>"))
    played = ChatFormat(ChatBytes(), frame=("", "\n>"))
    ids = played.first("Goal: win.\n>")
    for answer, text in (("look", "A door.\n>"), ("open door", "Goal: win.\n>")):
        ids = [*ids, *ChatBytes().encode(answer)]
        ids += played.next(text, ids, False)
    assert chat.first("Goal: win.\n>") == ids


def test_shots_are_read_from_a_file(tmp_path) -> None:
    path = tmp_path / "shots.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in [("1", "a"), ("2", "b")])
    )
    assert read_shots(path) == read_shots([("1", "a"), ("2", "b")]) == [[("1", "a")], [("2", "b")]]
    messages = [
        {"role": ("user", "assistant")[n % 2], "content": text}
        for n, text in enumerate(text for exchange in GAME for text in exchange)
    ]
    path.write_text(json.dumps({"messages": messages}) + '\n{"prompt": "1", "answer": "a"}\n')
    assert read_shots(path) == read_shots([GAME, ("1", "a")]) == [GAME, [("1", "a")]]
    assert as_lists(read_shots(path)) == [[list(exchange) for exchange in GAME], ["1", "a"]]
    path.write_text(json.dumps({"messages": [{"role": "system", "content": "x"}, *messages]}))
    with pytest.raises(ValueError, match=r"line 1: messages must be of user and assistant in turn"):
        read_shots(path)
    path.write_text(json.dumps({"messages": messages, "prompt": "1"}))
    with pytest.raises(ValueError, match=r"line 1 has messages beside prompt or answer"):
        read_shots(path)
    path.write_text('{"prompt": "1", "answer": "a"}\n{"prompt": "2"}\n')
    with pytest.raises(ValueError, match=r"line 2 has no key answer, only prompt: a worked example is"):
        read_shots(path)
    path.write_text('{"prompt": "1", "answer": null}\n')
    with pytest.raises(TypeError, match=r"line 1 must be a pair of texts"):
        read_shots(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"shots\.jsonl holds no worked examples"):
        read_shots(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_format": "chat"}, "needs a tokenizer with a chat template"),
        ({"prompt_format": "dialogue"}, "prompt_format must be 'plain' or 'chat'"),
        ({"chat_template_kwargs": {"think": True}}, "pass prompt_format='chat'"),
        ({"prompt_format": 5}, "prompt_format must be 'plain' or 'chat'"),
        ({"chat_template_kwargs": 5}, "chat_template_kwargs must be a dict or None, got 5"),
        ({"system": 5}, "system must be a str, got 5"),
        ({"system": "\ud800"}, "system is not Unicode text"),
        ({"shots": None}, r"shots must be a number, \(prompt, answer\) pairs or a file, got None"),
        ({"shots": 2.0}, "shots must be a number, .* got 2.0"),
        ({"shots": [("\ud800", "y")]}, r"a text of shots\[0\] is not Unicode text"),
        ({"shots": [("only",)]}, r"shots\[0\] must be a pair of texts"),
        (
            {"shots": [[("x", "y"), ("z",)]]},
            r"shots\[0\] must be a pair of texts .*, or a list of such pairs",
        ),
        ({"shots": [[]]}, r"shots\[0\] must be a pair of texts"),
        ({"shots": [("x" * 600, "y")]}, "the context holds 512"),
    ],
)
def test_a_format_that_cannot_be_had_is_refused_with_a_way_out(settings, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        gym.make("CoLA-Text-Token-v0", task=Echo, model=backbone(ByteTokenizer()), **settings).reset(seed=0)


def test_a_template_that_hides_the_assistant_is_refused() -> None:
    class Hides(ChatBytes):
        def chat(self, messages, **settings) -> str:
            return super().chat([m for m in messages if m["role"] == "user"], **settings)

    with pytest.raises(ValueError, match="does not show the assistant's text"):
        ChatFormat(Hides())


@pytest.mark.parametrize(
    "task_id", ["CoLA-Arithmetic-Token-v0", "CoLA-Thinking-Token-v0", "CoLA-Countdown-Token-v0"]
)
def test_a_tasks_own_examples_are_of_the_train_split_and_earn_the_full_reward(task_id: str) -> None:
    env = gym.make(task_id, model=FakeBackbone("token"), shots=2, split="test")
    env.reset(seed=0)
    episodes = env.unwrapped.episodes
    text = episodes.backbone.tokenizer.decode(episodes.tokens(0))
    (task,) = episodes.tasks.tasks
    assert text.count("Q: ") == 3
    prompt, answer = task.worked_example(np.random.default_rng(1))
    getattr(task, "task", task).split = "train"
    assert task.reset(np.random.default_rng(1)) == prompt
    turn = task.step(answer)
    assert (turn.reward, turn.info["success"]) == (1.0, True)


def test_a_number_of_shots_may_be_numpys() -> None:
    model, task_id = FakeBackbone("token", max_length=4096), "CoLA-Arithmetic-Token-v0"
    own, theirs = (gym.make(task_id, shots=n, model=model) for n in (2, np.int64(2)))
    observations = [env.reset(seed=0)[0] for env in (own, theirs)]
    np.testing.assert_array_equal(*observations)


def test_shots_of_a_task_without_examples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shots=2: Echo has no worked examples; pass"):
        gym.make("CoLA-Text-Token-v0", task=Echo, model=backbone(ByteTokenizer()), shots=2)


#: Environments with the arguments and the seed under which their docstring's plain prompt is read.
SHOWN = {
    "CoLA-Arithmetic-v0": ({}, range(1)),
    "CoLA-Thinking-v0": ({}, range(1)),
    "CoLA-Countdown-v0": ({}, ()),
    "CoLA-Math500-v0": ({"problems": [{"problem": "What is $2+3$?", "answer": "5"}]}, range(1)),
    "CoLA-GSM8K-v0": (
        {"problems": [{"question": "Tom has 3 boxes of 4 pens. How many pens has he?", "answer": "12"}]},
        range(1),
    ),
    "CoLA-TextRooms-v0": ({}, range(1)),
    "CoLA-Household-v0": ({}, range(1)),
    "CoLA-ALFWorld-v0": ({}, ()),
    "CoLA-ScienceWorld-v0": ({}, ()),
    "CoLA-Preference-v0": ({"prompts": ["Story:"], "scorer": lambda prompts, responses: [0.0]}, range(1)),
    "CoLA-Text-v0": ({"task": lambda: OneWord()}, range(1)),
}


class OneWord:
    stop = ()

    def reset(self, rng: object) -> str:
        return "Story:"

    def step(self, text: str) -> Turn:
        return Turn()


def shown_prompts(docstring: str) -> tuple[str, str]:
    """The prompt in both formats, as the docstring's paragraph on them shows it."""
    text = " ".join(docstring.split())
    found = re.search(r'\*\*Prompt formats\.\*\* Plain text: ``(".*?")``\. In a chat, .*?: ``(".*?")``', text)
    assert found is not None
    plain, chat = map(ast.literal_eval, found.groups())
    return plain, chat


def test_every_environment_shows_its_prompt_in_both_formats() -> None:
    assert set(SHOWN) == {key for key in PACKAGE_IDS if "-Token-" not in key}


@pytest.mark.parametrize("env_id", SHOWN)
def test_the_prompts_in_a_tasks_docstring_are_what_the_formats_make_of_it(env_id: str) -> None:
    task_class = described(env_id)
    plain, chat = shown_prompts(inspect.getdoc(task_class) or "")
    frame = getattr(task_class, "plain_frame", None) or FRAMES.get(env_id, ("", ""))
    tokenizer = ChatBytes()
    assert tokenizer.decode(PlainFormat(tokenizer).first(plain)) == plain
    rendered = tokenizer.spell(ChatFormat(tokenizer, frame=frame).first(plain))
    assert rendered == f"[[user: {chat}]][[assistant: "
    kwargs, seeds = SHOWN[env_id]
    for seed in seeds:
        try:
            env = gym.make(env_id, model=FakeBackbone("latent", max_length=2048), **kwargs)
        except ImportError:
            pytest.skip("its engine is not installed")
        _, info = env.reset(seed=seed)
        env.close()
        assert re.fullmatch(".+?".join(map(re.escape, plain.split("..."))), info["prompt"], re.DOTALL)
        assert getattr(env.unwrapped.episodes.tasks, "plain_frame", ("", "")) == frame


#: Frames that a task sets when it is made.
FRAMES = {
    "CoLA-Arithmetic-v0": ("Q: ", "\nA:"),
    "CoLA-Thinking-v0": ("", "\nA:"),
    "CoLA-Countdown-v0": ("Q: ", "\nA:"),
}


def described(env_id: str) -> object:
    """The class or function whose docstring specifies the environment's task."""
    if env_id == "CoLA-Countdown-v0":
        return CountdownTask
    builder = load(gym.spec(env_id).kwargs["builder"])
    made = inspect.get_annotations(builder, eval_str=True).get("return")
    return made if not inspect.isclass(builder) and made is not TaskBatch else builder


@pytest.mark.parametrize("shots", ["nofile.jsonl", "."])
def test_shots_that_are_no_file_are_named(shots: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"shots='{shots}' is no file; pass a JSON-lines file"):
        read_shots(shots)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"^shots=1: no problem of the problems that were passed has a worked solution .*; pass"),
        ({"split": "test"}, r"^shots=1: with split='test' there is no train split beside the problems that"),
    ],
)
def test_problems_that_were_passed_are_called_so(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_shots(1, Math500(1, problems=[{"problem": "1+1?", "answer": "2"}], **settings))
