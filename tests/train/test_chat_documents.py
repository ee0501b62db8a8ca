"""Training data in a tokenizer's chat template: the tokens that an environment shows the same model."""

import gymnasium as gym
import pytest

from cola_agents.model.text import PlainTokenizer
from cola_agents.train.data.documents import Document
from cola_agents.train.data.formats import RowFormat
from cola_agents.train.data.packing import IGNORED, PackedBatches
from tests.model.test_chat import TEMPLATE, chat_tokenizer
from tests.tiny import make_base, make_tokenizer

ASK, ANSWER = "What is 2+3?", "2+3=5"
CHAT = RowFormat(template="chat")


def packed(document, tokenizer):
    """The ids of a packed document, and those of them that are learned where prompts are not."""
    batch = next(PackedBatches([document], PlainTokenizer(tokenizer), rows=1, length=96, learn_prompts=False))
    learned = batch.targets[0][batch.targets[0] != IGNORED].tolist()
    return [*batch.ids[0].tolist()], learned


def test_a_prompt_is_what_an_environment_shows_in_its_chat_format():
    tokenizer = chat_tokenizer()
    env = gym.make("CoLA-Arithmetic-Token-v0", model=make_base(), tokenizer=tokenizer, prompt_format="chat")
    _, info = env.reset(seed=0)
    shown = env.unwrapped.episodes.tokens(0)
    env.close()
    row = CHAT.document({"prompt": info["question"], "response": ANSWER}, "")
    ids, learned = packed(row, tokenizer)
    assert ids[: len(shown)] == list(shown)
    assert tokenizer.decode(learned[:-1]) == ANSWER


@pytest.mark.parametrize("end", ["the marker", "another"])
def test_an_answer_ends_with_the_marker_of_a_turn_and_the_end_of_text_once_each(end):
    tokenizer = chat_tokenizer()
    text = PlainTokenizer(tokenizer)
    row = CHAT.document({"messages": [message("user", ASK), message("assistant", f" {ANSWER}\n")]}, "")
    if end == "the marker":
        assert row.ids(text)[1] == text.encode(ANSWER)
    else:
        text.eos_token_id = text.encode("<think>")[0]
        assert row.ids(text)[1] == [*text.encode(ANSWER), tokenizer.eos_token_id]


def test_an_answer_ends_with_what_the_template_puts_before_the_marker():
    tokenizer = chat_tokenizer(TEMPLATE.replace("{{ eos_token }}", " {{ eos_token }}"))
    row = CHAT.document({"messages": [message("user", ASK), message("assistant", ANSWER)]}, "")
    _, continuation = row.ids(PlainTokenizer(tokenizer))
    assert tokenizer.decode(continuation) == f"{ANSWER} "


def message(role, content):
    return {"role": role, "content": content}


def test_earlier_turns_and_the_system_message_are_part_of_the_prompt():
    tokenizer = chat_tokenizer()
    turns = [message("system", "S"), message("user", "a"), message("assistant", "b"), message("user", "c")]
    row = CHAT.document({"messages": [*turns, message("assistant", "d")]}, "")
    expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    prompt, continuation = row.ids(PlainTokenizer(tokenizer))
    assert tokenizer.decode(prompt) == expected
    assert tokenizer.decode(continuation) == "d"


def test_without_a_template_the_error_says_what_to_use():
    row = CHAT.document({"prompt": ASK, "response": ANSWER}, "")
    with pytest.raises(ValueError, match=r"needs a tokenizer with a chat template.*'dialogue' or 'plain'"):
        row.ids(PlainTokenizer(make_tokenizer()))
    assert Document("a", "b").ids(PlainTokenizer(make_tokenizer()))[0]
