"""Conversations with ChatGLM-6B."""

import json

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from glmja.chat import chat
from glmja.conversation.dialogue import Dialogue
from glmja.conversation.rendering import question_ids, render_prompt
from glmja.conversation.replies import generate
from glmja.conversation.streaming import CleanedStream
from glmja.families.chatglm1 import clean_reply
from glmja.modeling.loading import load_model
from glmja.modeling.model_folder import ModelFolder
from glmja.modeling.sampling import Sampling

QUESTIONS = ["你好", "请用一句话介绍北京。", "Hello, how are you?", "類型は何ですか？"]
TALK = [
    {"role": "user", "content": "一"}, {"role": "assistant", "content": "二"}, {"role": "user", "content": "三"},
]  # fmt: skip


@pytest.fixture(scope="module")
def opened(chatglm1_dir):
    return ModelFolder.open(chatglm1_dir)


@pytest.fixture(scope="module")
def model(opened):
    return load_model(opened, torch.float32)


def as_prompt(text):
    return [{"role": "user", "content": text}]


def test_prompts_are_those_of_the_official_chat(data):
    tokenizer = ModelFolder.open(data / "chatglm1_tiny").tokenizer
    for case in json.loads((data / "chatglm1_tiny" / "expected.json").read_text())["chat"]:
        messages = []
        for question, answer in case["history"]:
            messages += [*as_prompt(question), {"role": "assistant", "content": answer}]
        assert render_prompt([*messages, *as_prompt(case["query"])], tokenizer) == case["ids"]


def test_a_first_question_is_bare_and_later_ones_are_rounds_from_0(opened):
    tokenizer = opened.tokenizer
    text = "[Round 0]\n问：一\n答：二\n[Round 1]\n问：三\n答："
    assert render_prompt(TALK, tokenizer) == [*tokenizer.encode(text), *tokenizer.prefix_ids]
    assert (
        render_prompt(TALK[:1], tokenizer)
        == question_ids("一", tokenizer)
        == tokenizer.prompt_ids(tokenizer.encode("一"))
    )


def test_a_system_message_is_refused(opened):
    with pytest.raises(ValueError, match="message 0 has the role system, not user; the format chatglm has user and"):
        render_prompt([{"role": "system", "content": "a"}, *TALK], opened.tokenizer)


def test_answers_in_a_batch_are_those_of_each_question_alone(opened, model):
    prompts = [*map(as_prompt, QUESTIONS), TALK]
    batched = generate(model, opened.tokenizer, prompts, Sampling(12))
    assert [reply.ids for reply in batched] == [
        generate(model, opened.tokenizer, [prompt], Sampling(12))[0].ids for prompt in prompts
    ]
    assert all(reply.text == clean_reply(opened.tokenizer.decode(reply.ids)) for reply in batched)


def test_a_dialogue_prints_what_it_remembers(opened, model):
    dialogue = Dialogue(opened.tokenizer, "chatglm", Sampling(20, True, 2.0, 1.0, seed=1), opened.max_positions)
    for question in QUESTIONS[:2]:
        dialogue.add_message(question)
        printed = []
        dialogue.answer(model, printed.append)
        assert "".join(printed) == dialogue.messages[-1]["content"]
    assert [message["role"] for message in dialogue.messages] == ["user", "assistant"] * 2


@example(parts=["好", "[[训练", "时间]]"])
@given(parts=st.lists(st.sampled_from(["好", "!", "?", ",", ":", " ", "\n", "a", "か", "[[训练", "时间]]", "[", "[["])))
def test_a_cleaned_stream_prints_the_cleaned_text(parts):
    stream = CleanedStream(clean_reply)
    assert "".join(map(stream.add, parts)) + stream.close() == clean_reply("".join(parts))


def test_a_stream_that_nothing_cleans_holds_nothing_back():
    stream = CleanedStream(str)
    assert [stream.add("a"), stream.add(" b"), stream.close()] == ["a", " b", ""]


def test_chat_samples_with_the_values_of_the_family(chatglm1_dir, monkeypatch):
    used = []
    real = Dialogue.__init__

    def init(self, tokenizer, prompt_format, sampling, *args):
        used.append((prompt_format, sampling.temperature, sampling.top_p))
        real(self, tokenizer, prompt_format, sampling, *args)

    monkeypatch.setattr(Dialogue, "__init__", init)
    for given_values in ({}, {"temperature": 0.5}):
        chat(str(chatglm1_dir), prompt="你好", max_new_tokens=2, device="cpu", **given_values)
    assert used == [("chatglm", 0.95, 0.7), ("chatglm", 0.5, 0.7)]
