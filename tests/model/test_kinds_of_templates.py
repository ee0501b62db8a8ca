"""The table of docs/tokens.md: what the kinds of chat templates do, computed with templates of their form."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import GenerationConfig

from cola_agents.model.text import PlainTokenizer
from cola_envs.prompts import ChatFormat, PlainFormat, prompt_format
from cola_envs.text import end_ids
from tests.spelling import base_for, byte_tokenizer

PAGE = Path(__file__).parents[2] / "docs/tokens.md"

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3 = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}",
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}"
    "[INST] {{ system if loop.first else '' }}{{ m.content }}[/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}"
    "{{ bos_token }}[INST] {{ system if loop.first else '' }}{{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
DEEPSEEK_CODER = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}You are an AI programming assistant.\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "### Instruction:\n{{ m.content }}\n{% else %}### Response:\n{{ m.content }}\n<|EOT|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}### Response:{% endif %}"
)
COMMAND = (
    "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|>{% if m.role == 'assistant' %}"
    "<|CHATBOT_TOKEN|><|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>"
    "{% else %}<|{{ m.role | upper }}_TOKEN|>{{ m.content }}{% endif %}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)
GLM4 = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Kind:
    """A chat template, with the special tokens that its models have."""

    template: str | None
    special: tuple[str, ...]
    end: str | None
    start: str | None = None


KINDS = {
    "ChatML": Kind(CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "ChatML with thinking": Kind(QWEN3, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "Llama 3": Kind(
        LLAMA3,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    "Gemma": Kind(GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", "<bos>"),
    "Mistral": Kind(MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", "<s>"),
    "Llama 2": Kind(LLAMA2, ("<s>", "</s>"), "</s>", "<s>"),
    "DeepSeek Coder": Kind(
        DEEPSEEK_CODER,
        ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<|EOT|>"),
        "<|EOT|>",
        "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    ),
    "Command R7B": Kind(
        COMMAND,
        (
            "<BOS_TOKEN>",
            "<|START_OF_TURN_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            "<|SYSTEM_TOKEN|>",
            "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
            "<|START_RESPONSE|>",
            "<|END_RESPONSE|>",
        ),
        "<|END_OF_TURN_TOKEN|>",
        "<BOS_TOKEN>",
    ),
    "GLM-4": Kind(
        GLM4,
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
        "<|user|>",
        "[gMASK] <sop>",
    ),
    "base model": Kind(None, (), None),
}


def tokenizer_of(kind: Kind) -> PlainTokenizer:
    """As its models are published: the end of a turn is an end of text by the generation configuration."""
    source = byte_tokenizer(special=kind.special, start=kind.start)
    source.chat_template = kind.template
    model = base_for(source)
    if kind.end is not None:
        model.generation_config = GenerationConfig(eos_token_id=[source.convert_tokens_to_ids(kind.end)])
        if kind.end == "</s>":
            source.eos_token = kind.end
    return PlainTokenizer(source, model)


def row(name: str) -> list[str]:
    """What the table says of a kind: from what it begins with on."""
    tokenizer = tokenizer_of(KINDS[name])
    usual = prompt_format(tokenizer)
    start = f"`{tokenizer.spell(tokenizer.start_ids)}`" if tokenizer.start_ids else "nothing"
    if isinstance(usual, PlainFormat):
        shown = tokenizer.decode(PlainFormat(tokenizer, "SYSTEM").first("Q: 1+1?\nA:"))
        assert shown == "SYSTEM\n\nQ: 1+1?\nA:"
        with pytest.raises(ValueError, match="chat_template_kwargs are variables of a chat template"):
            prompt_format(tokenizer, chat_template_kwargs={"enable_thinking": False})
        return ["by model", "has none", "plain", "stands before the prompt", "is an error"]
    assert usual.marker is not None
    try:
        switched = ChatFormat(tokenizer, chat_template_kwargs={"enable_thinking": False}).first("a")
        assert switched != usual.first("a")
        thinking = "changes the prompt"
    except ValueError as error:
        thinking = "is an error" if "reads no such variable" in str(error) else str(error)
    return [start, f"`{tokenizer.spell([usual.marker])}`", usual.name, _system(tokenizer), thinking]


def _system(tokenizer: PlainTokenizer) -> str:
    try:
        shown = tokenizer.spell(ChatFormat(tokenizer, "SYSTEM").first("ASKED"))
    except ValueError as error:
        return "is an error" if "System role not supported" in str(error) else str(error)
    before, _, behind = shown.partition("SYSTEM")
    if before == tokenizer.spell(tokenizer.start_ids):
        return "stands before the prompt"
    named = "user" in behind.partition("ASKED")[0].lower()  # where a user's turn begins behind it
    return "is a turn" if named else "is part of a user's turn"


@pytest.mark.parametrize("name", KINDS)
def test_the_table_of_the_page_says_what_is_computed(name):
    rows = re.findall(r"^\| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    cells = [re.split(r"(?<!\\) \| ", line) for line in rows]
    stated = {one[0]: one[2:] for one in cells if len(one) == 7}
    assert [cell.replace("\\|", "|") for cell in stated[name]] == row(name)


def test_every_kind_of_the_table_is_computed():
    rows = re.findall(r"^\| (.+?) \|", PAGE.read_text().partition("## What each kind")[2], re.MULTILINE)
    assert [name for name in rows if name != "kind"] == list(KINDS)


ROLES = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
BOS_A_TURN = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [ROLES, BOS_A_TURN])
def test_what_opens_the_users_turn_is_no_end_of_the_assistants(template):
    special = ("<s>", "</s>", "<|user|>", "<|assistant|>")
    tokenizer = tokenizer_of(Kind(template, special, "</s>", "<s>"))
    chat = ChatFormat(tokenizer)
    assert (chat.marker, chat.ending, chat.end_ids) == (None, [], end_ids(tokenizer))
    assert prompt_format(tokenizer).name == "plain"


@pytest.mark.parametrize("name", [name for name in KINDS if name != "base model"])
def test_a_second_turn_appends_to_the_ids_that_the_agent_wrote(name):
    tokenizer = tokenizer_of(KINDS[name])
    chat = prompt_format(tokenizer)
    assert isinstance(chat, ChatFormat)
    written = tokenizer.encode("two")
    whole = tokenizer.chat(
        [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
        ],
        add_generation_prompt=True,
        chat_template_kwargs={},
    )
    before, _, behind = whole.partition("two")
    assert before.startswith(tokenizer.spell(chat.first("one")))
    assert tokenizer.spell(chat.next("three", written, done=False)) == behind
    _, marker, rest = behind.partition(tokenizer.spell([chat.marker]))
    assert tokenizer.spell(chat.next("three", [*written, chat.marker], done=False)) == rest != behind
    assert tokenizer.spell(chat.ending) == behind.removesuffix(marker + rest) + marker
