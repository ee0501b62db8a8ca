"""Chat templates of Hugging Face tokenizers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
import torch

import cola_envs  # noqa: F401
from cola_agents.evaluation.reports import table
from cola_agents.evaluation.run import evaluate
from cola_agents.model.text import PlainTokenizer
from cola_envs.tasks.arithmetic import ArithmeticTask
from tests.tiny import make_base, make_tokenizer

TEMPLATE = (
    "{% for m in messages %}<think>{{ m.role }}: {{ m.content | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<think>assistant:{% endif %}"
)


def chat_tokenizer(template: str = TEMPLATE) -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_greedy_text_equals_generate_under_the_template() -> None:
    tokenizer, model = chat_tokenizer(), make_base()
    env = gym.make(
        "CoLA-Arithmetic-Token-v0", model=model, tokenizer=tokenizer, max_tokens=24, system="Be brief."
    )
    for seed in range(20):
        _, info = env.reset(seed=seed)
        assert info["prompt_format"] == "chat"
        episodes = env.unwrapped.episodes
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": info["question"]},
        ]
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        with torch.no_grad():
            expected = model.generate(ids, max_new_tokens=24, do_sample=False)[0].tolist()
        over = False
        while not over:
            with torch.no_grad():
                token = int(model(torch.tensor([episodes.tokens(0)])).logits[0, -1].argmax())
            _, _, terminated, truncated, _ = env.step(token)
            over = terminated or truncated
        assert episodes.tokens(0) == expected


def test_a_template_cannot_run_code_and_a_broken_one_is_named() -> None:
    messages = [{"role": "user", "content": "hello"}]
    for template in (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception('no system messages') }}",
        "{% for %}",
    ):
        tokenizer = chat_tokenizer(template)
        tokenizer.name_or_path = "some/model"
        with pytest.raises(ValueError, match=r"the chat template of 'some/model' failed: \w+Error"):
            PlainTokenizer(tokenizer).chat(messages, add_generation_prompt=True, chat_template_kwargs={})


def test_a_variable_of_the_template_is_passed_through() -> None:
    template = TEMPLATE + "{% if enable_thinking is false %}no thoughts{% endif %}"
    text = PlainTokenizer(chat_tokenizer(template)).chat(
        [{"role": "user", "content": "hello"}],
        add_generation_prompt=True,
        chat_template_kwargs={"enable_thinking": False},
    )
    assert text.endswith("<think>assistant:no thoughts")


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("enable_thinkin", "reads no such variable; those that it reads are .*enable_thinking"),
        ("x y", "reads no such variable"),
        ("messages", "no variable of a chat template but an argument of its rendering"),
        ("tokenize", "leave it out"),
        ("add_generation_prompt", "leave it out"),
    ],
)
def test_a_variable_that_the_template_does_not_read_is_refused(variable: str, message: str) -> None:
    """A misspelt switch would be ignored, and the model would think all the same."""
    ending = "{% if enable_thinking is false %}no thoughts{% endif %}"
    tokenizer = PlainTokenizer(chat_tokenizer(TEMPLATE + "{% generation %}" + ending + "{% endgeneration %}"))
    with pytest.raises(ValueError, match=message):
        tokenizer.chat(
            [{"role": "user", "content": "hello"}],
            add_generation_prompt=True,
            chat_template_kwargs={variable: False},
        )


def test_the_tasks_frame_surrounds_its_prompt() -> None:
    before, behind = ArithmeticTask().plain_frame
    _, info = gym.make("CoLA-Arithmetic-Token-v0", model=make_base(), tokenizer=make_tokenizer()).reset(
        seed=0
    )
    assert info["prompt"] == before + info["question"] + behind


def test_a_report_names_the_prompt_format() -> None:
    for name, tokenizer in (("plain", make_tokenizer()), ("chat", chat_tokenizer())):
        report = evaluate(
            "CoLA-Arithmetic-Token-v0",
            model=make_base(),
            tokenizer=tokenizer,
            episodes=2,
            env_kwargs={"max_tokens": 4},
        )
        assert report["prompt_format"] == name
        assert f"{name} prompts" in table(report).splitlines()[0]
