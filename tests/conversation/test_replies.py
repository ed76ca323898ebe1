import pytest
import torch
from hypothesis import given

from glmja.conversation.rendering import render, render_prompt
from glmja.conversation.replies import Reply, generate, split_metadata
from glmja.modeling.generation import generate_ids
from glmja.modeling.loading import load_model
from glmja.modeling.sampling import Sampling
from tests.support.strategies import TEXT
from tests.support.taught import HELLO, WEATHER, taught_folder


@pytest.fixture(scope="module")
def model(zero_dir, tmp_path_factory):
    return load_model(taught_folder(zero_dir, tmp_path_factory), torch.float32)


def test_a_reply_has_the_ids_that_continue_the_prompt(model, tokenizer):
    prompts = [HELLO[:1], HELLO[:3], WEATHER[:2]]
    rows = [render_prompt(prompt, tokenizer) for prompt in prompts]
    replies = generate(model, tokenizer, prompts, Sampling(60), batch_size=2)
    assert [(reply.ids, reply.stopped) for reply in replies] == generate_ids(model, tokenizer, rows, Sampling(60))
    assert [reply.num_prompt_tokens for reply in replies] == [len(row) for row in rows]


def test_a_reply_is_split_into_the_called_tool_and_the_text(model, tokenizer):
    hello, weather = generate(model, tokenizer, [HELLO[:1], WEATHER[:2]], Sampling(60))
    assert (hello.metadata, hello.text, hello.stopped) == ("", HELLO[1]["content"], True)
    assert (weather.metadata, weather.text) == ("get_weather", WEATHER[2]["content"])


def test_the_whole_reply_includes_a_metadata_line_that_is_not_empty():
    assert Reply("b", "a", [], 1, True).whole == "a\nb"
    assert Reply("b", "", [], 1, True).whole == "b"


@given(TEXT)
def test_metadata_and_content_are_split_as_they_were_rendered(tokenizer, content):
    content = tokenizer.decode(tokenizer.encode(content))  # text that the tokenizer can represent
    for metadata in ("", "get_weather"):
        ids, loss_mask = render([{"role": "assistant", "content": content, "metadata": metadata}], tokenizer)
        targets = [token_id for token_id, is_target in zip(ids, loss_mask, strict=True) if is_target]
        assert split_metadata(targets[:-1], tokenizer) == (metadata, content)


def test_without_a_line_feed_everything_is_content(tokenizer):
    assert split_metadata(tokenizer.encode("はい、そうです"), tokenizer) == ("", "はい、そうです")
    assert split_metadata([], tokenizer) == ("", "")


def test_a_malformed_conversation_is_rejected(model, tokenizer):
    with pytest.raises(ValueError, match="message 0 has the role 'robot'"):
        generate(model, tokenizer, [[{"role": "robot", "content": ""}]], Sampling(3))
