"""Episodes that `cola generate` recorded are training data, token for token as they were played."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from cola_agents.decoding.loading import make_backbone
from cola_agents.model.text import PlainTokenizer
from cola_agents.rl.generate import generate
from cola_agents.train.data.documents import RecordedEpisode
from cola_agents.train.data.formats import RowFormat
from cola_agents.train.data.packing import PackedBatches
from cola_agents.train.data.sources import FileDocuments
from tests.model.test_chat import TEMPLATE, chat_tokenizer
from tests.tiny import make_base, make_tokenizer


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four answers of a random model, prompted in a chat template with a worked example."""
    path = tmp_path_factory.mktemp("recorded") / "own.jsonl"
    generate(
        "CoLA-Arithmetic-Token-v0",
        path,
        problems=2,
        n=2,
        num_envs=4,
        env_kwargs={
            "model": make_base(),
            "tokenizer": chat_tokenizer(),
            "max_tokens": 6,
            "shots": 1,
            "prompt_format": "chat",
        },
    )
    return path


def episodes(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def test_a_recording_is_read_as_its_tokens_each_with_one_end_of_text(recording: Path) -> None:
    tokenizer = PlainTokenizer(chat_tokenizer())
    read = [document.ids(tokenizer) for document in FileDocuments(recording, epochs=1)]
    played = episodes(recording)
    assert len(read) == len(played) == 4
    for (prompt, answer), episode in zip(read, played, strict=True):
        assert prompt == episode["ids"][: episode["positions"][0] + 1]
        ended = episode["ids"][-1] == tokenizer.eos_token_id
        assert prompt + answer == (episode["ids"][:-1] if ended else episode["ids"])
    (batch,) = PackedBatches(FileDocuments(recording, epochs=1), tokenizer, rows=4, length=256)
    assert batch.ids[0, : len(read[0][0])].tolist() == read[0][0]


@pytest.mark.parametrize("level", ["", "-Token"])
def test_episodes_of_several_turns_are_read_with_the_replies_between_them(level: str, tmp_path: Path) -> None:
    path = tmp_path / "rooms.jsonl"
    generate(f"CoLA-TextRooms{level}-v0", path, problems=2, n=2, num_envs=4, env_kwargs={"max_tokens": 24})
    tokenizer = make_backbone(level="token").tokenizer
    for document, episode in zip(FileDocuments(path, epochs=1), episodes(path), strict=True):
        prompt, answer = document.ids(tokenizer)
        assert [*prompt, *answer] == episode["ids"][: len(prompt) + len(answer)]
        assert "\n" in tokenizer.decode(answer)


def test_several_turns_of_a_chat_are_read_and_not_taken_for_another_tokenizers(tmp_path: Path) -> None:
    """The agent's text has nothing between its turns, the tokens have marks and replies."""
    bundled = make_backbone(level="token")
    source = copy.deepcopy(bundled.tokenizer.source)
    source.chat_template = TEMPLATE
    path, tokenizer = tmp_path / "rooms.jsonl", PlainTokenizer(source)
    generate(
        "CoLA-TextRooms-Token-v0",
        path,
        problems=2,
        n=2,
        num_envs=4,
        env_kwargs={
            "model": bundled.model,
            "tokenizer": source,
            "max_tokens": 40,
            "prompt_format": "chat",
        },
    )
    turns = 0
    for document in FileDocuments(path, epochs=1):
        document.ids(tokenizer)
        if document.answer and len(document.replies) > 1:
            turns += len(document.replies)
            wrong = dataclasses.replace(document, answer=document.answer + "a")
            with pytest.raises(ValueError, match="another tokenizer"):
                wrong.ids(tokenizer)
    assert turns > 1


@pytest.mark.parametrize("level", ["", "-Token"])
@pytest.mark.parametrize("length", [128, 20])
def test_a_tasks_replies_are_read_and_where_prompts_are_not_learned_not_learned(
    level: str, length: int, tmp_path: Path
) -> None:
    """Also where a document is split, and packing goes on in the middle of it."""
    path = tmp_path / "rooms.jsonl"
    generate(f"CoLA-TextRooms{level}-v0", path, problems=2, n=2, num_envs=4, env_kwargs={"max_tokens": 24})
    tokenizer = make_backbone(level="token").tokenizer
    expected, parts = [], 0
    for episode in episodes(path):
        ids, own = episode["ids"], {position + 1 for position in episode["positions"]}
        replied = {at for start, end in episode["replies"] for at in range(start, end)}
        assert replied == set(range(min(own), len(ids))) - own
        assert tokenizer.decode([ids[at] for at in sorted(replied)]).count("\n") >= 1
        expected += [ids[at] for at in sorted(own)]
        parts += 1 + len(ids) // length

    def batches(**options: Any) -> PackedBatches:
        return PackedBatches(FileDocuments(path, epochs=1), tokenizer, rows=1, length=length, **options)

    learned, state, resumed = [], None, []
    packed = batches(learn_prompts=False)
    for number, batch in enumerate(packed):
        learned += batch.targets[batch.targets >= 0].tolist()
        resumed += batch.targets[batch.targets >= 0].tolist() if number == 0 else []
        state = packed.state_dict() if number == 0 else state
    end = tokenizer.eos_token_id
    assert learned.count(end) <= expected.count(end), "no end of the text that the agent did not write"
    rest = iter([token for token in expected if token != end])
    found = [token for token in learned if token != end]
    assert all(token in rest for token in found), "in the order in which they were written, no others"
    assert len(found) >= sum(token != end for token in expected) - (parts if length < 128 else 0)
    again = batches(learn_prompts=False)
    again.load_state_dict(json.loads(json.dumps(state)))
    for batch in again:
        resumed += batch.targets[batch.targets >= 0].tolist()
    assert resumed == learned
    whole = [token for batch in batches() for token in batch.targets[batch.targets >= 0].tolist()]
    assert len(whole) > 2 * len(learned)


@pytest.mark.parametrize("ended", [True, False])
def test_the_end_of_the_text_is_learned_where_the_agent_wrote_it(ended: bool) -> None:
    tokenizer = PlainTokenizer(make_tokenizer())
    end = tokenizer.eos_token_id
    episode = RecordedEpisode((5, 6, 7, 8, *[end] * ended), 2, None, "here")
    (batch,) = PackedBatches([episode], tokenizer, rows=1, length=8, learn_prompts=False)
    assert batch.ids[0, :5].tolist() == [5, 6, 7, 8, end]
    assert batch.targets[batch.targets >= 0].tolist() == [7, 8, *[end] * ended]


def test_another_tokenizer_is_refused_by_its_text_and_by_its_size(recording: Path, tmp_path: Path) -> None:
    tokenizer = PlainTokenizer(make_tokenizer())
    for change in ({"ids": 10_000}, {"info": {"text": "another text"}}):
        line = episodes(recording)[0]
        if "ids" in change:
            line["ids"][-1] = change["ids"]
        else:
            line |= change
        path = tmp_path / "changed.jsonl"
        path.write_text(json.dumps(line) + "\n")
        with pytest.raises(ValueError, match=r"changed\.jsonl, line 1: .*another tokenizer than the model's"):
            next(FileDocuments(path)).ids(tokenizer)


@pytest.mark.parametrize("given", [{"template": "chat"}, {"prompt": "question", "response": "answer"}])
def test_an_episode_takes_no_template_and_no_fields(given: dict[str, Any], recording: Path) -> None:
    with pytest.raises(ValueError, match=r"own\.jsonl, line 2: .* leave text=, prompt=, response="):
        next(FileDocuments(recording, rows=RowFormat(**given)))


def test_a_damaged_episode_is_named(recording: Path, tmp_path: Path) -> None:
    line = episodes(recording)[0]
    path = tmp_path / "damaged.jsonl"
    for change in (
        {"positions": "x"},
        {"positions": [], "actions": [], "log_probs": [], "rewards": []},
        {"replies": [[3, 2]]},
        {"replies": [[0, 3], [2, 4]]},
        {"replies": [[1, 10_000]]},
        {"replies": [1, 2]},
        {"replies": {"1": 2}},
        {"replies": [[line["positions"][-1] + 1, line["positions"][-1] + 2]]},
        {"replies": [[0, 1]]},
        {"positions": [-3, *line["positions"][1:]]},
        {"positions": [*line["positions"][:-1], len(line["ids"]) - 1]},
        {"positions": line["positions"][::-1]},
    ):
        path.write_text(json.dumps({**line, **change}) + "\n")
        with pytest.raises(ValueError, match=r"damaged\.jsonl, line 1: the episode"):
            next(FileDocuments(path))
