import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from glmja.conversation import rendering as conversation
from glmja.families.recognition import load_tokenizer
from glmja.tokenization import huggingface
from glmja.tokenization.chat_template import TOOL_PROMPT
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import append_pieces
from tests.support.daily import drawn
from tests.support.strategies import TEXT, TEXT_WITH_CONTROL_NAMES


@pytest.fixture(scope="module")
def fast(tokenizer_dir):
    return AutoTokenizer.from_pretrained(tokenizer_dir)


def ids_of(fast, text):
    return fast(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=300)
@given(text=TEXT)
def test_hugging_face_gives_the_ids_of_sentencepiece(fast, tokenizer, text):
    assert ids_of(fast, text) == tokenizer.encode(text)


def test_hugging_face_gives_the_ids_of_sentencepiece_on_strings_of_new_pieces(fast, tokenizer, base_tokenizer):
    pieces = [piece.piece for piece in list(tokenizer.proto.pieces)[len(base_tokenizer) :]]

    @settings(max_examples=500)
    @given(st.lists(st.sampled_from(pieces), max_size=12).map("".join), st.integers(0, 5), st.integers(0, 5))
    def law(text, begin, end):
        part = text[begin : len(text) - end]
        assert ids_of(fast, part) == tokenizer.encode(part)

    law()


@given(text=TEXT)
def test_hugging_face_decodes_what_it_encoded(fast, text):
    assert fast.decode(ids_of(fast, text)) == text


@given(text=TEXT_WITH_CONTROL_NAMES)
def test_text_is_text_when_special_tokens_are_split(fast, tokenizer, text):
    assert fast(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == tokenizer.encode(text)


def test_by_default_hugging_face_reads_control_tokens_in_text(fast, tokenizer):
    assert tokenizer.role_id("user") in ids_of(fast, "a<|user|>b")
    assert ids_of(fast, "philosophy sop eop") == tokenizer.encode("philosophy sop eop")


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_lone_surrogates_are_refused_by_both(fast, tokenizer, text):
    with pytest.raises((TypeError, ValueError)):
        ids_of(fast, text)
    with pytest.raises(ValueError, match="lone surrogate"):
        tokenizer.encode(text)


def test_special_ids_are_those_of_the_tokenizer(fast, tokenizer):
    assert len(fast) == len(tokenizer)
    assert (fast.eos_token_id, fast.pad_token_id, fast.padding_side) == (2, 0, "left")
    assert fast("です")["input_ids"] == [*tokenizer.prefix_ids, *tokenizer.encode("です")]
    assert {name: fast.convert_tokens_to_ids(name) for name in tokenizer.control_tokens} == tokenizer.control_tokens


CONVERSATIONS = [
    [{"role": "user", "content": "こんにちは"}],
    [{"role": "system", "content": "短く。"}, {"role": "user", "content": "你好\n\n再见"}],
    [{"role": "user", "content": " two  spaces "}, {"role": "assistant", "content": "はい。"}],
    [{"role": "user", "content": ""}, {"role": "assistant", "content": "\n"}, {"role": "user", "content": "\n\nx"}],
    [
        {"role": "system", "content": "s", "tools": None, "metadata": None},
        {"role": "user", "content": "a", "tools": []},
    ],
    [
        {"role": "system", "content": "Tools:", "tools": [{"name": "検索", "parameters": {"q": "語"}}]},
        {"role": "user", "content": "調べて"},
        {"role": "assistant", "metadata": "検索", "content": "```python\ntool_call(q='語')\n```"},
        {"role": "observation", "content": '{"n": 1}'},
        {"role": "assistant", "content": "ありました。"},
    ],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_the_chat_template_gives_the_ids_of_render(fast, tokenizer, messages):
    ours, theirs = conversation.render(messages, tokenizer)[0], fast.apply_chat_template(messages, return_dict=False)
    assert theirs == ours
    theirs = fast.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert theirs == conversation.render_prompt(messages, tokenizer)


def test_tools_given_beside_the_messages_stand_below_the_system_message(fast, tokenizer):
    tools = [{"type": "function", "function": {"name": "検索", "parameters": {}}}]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    theirs = fast.apply_chat_template(messages, tools=tools, return_dict=False)
    assert theirs == conversation.render([messages[0] | {"tools": tools}, messages[1]], tokenizer)[0]
    theirs = fast.apply_chat_template(messages[1:], tools=tools, return_dict=False)
    system = {"role": "system", "content": TOOL_PROMPT, "tools": tools}
    assert theirs == conversation.render([system, messages[1]], tokenizer)[0]


def test_a_vocabulary_without_roles_has_no_chat_template(base_dir, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes((base_dir / "tokenizer.model").read_bytes())
    assert huggingface.save(load_tokenizer(tmp_path, "chatglm2"), tmp_path) == []
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template is None


@given(st.lists(TEXT, min_size=1, max_size=3))
def test_the_chat_template_gives_the_ids_of_render_for_any_text(fast, tokenizer, contents):
    messages = [{"role": "user", "content": content} for content in contents]
    assert fast.apply_chat_template(messages, return_dict=False) == conversation.render(messages, tokenizer)[0]


def test_what_hugging_face_could_not_reproduce_is_found(base_tokenizer):
    assert huggingface.check(base_tokenizer) == []
    ties = append_pieces(base_tokenizer.proto, ["ゑ", "ヱ"])
    ties.pieces[-1].score = ties.pieces[-2].score
    assert huggingface.check(GLMTokenizer(ties)) == ["two pieces have the same score"]
    without_characters = append_pieces(base_tokenizer.proto, ["ゑヱ"])
    assert huggingface.check(GLMTokenizer(without_characters)) == [
        "pieces contain characters that are not pieces: ゑヱ"
    ]


@pytest.mark.parametrize(("language",), drawn("real text", [("ja",), ("zh",), ("en",)], 1))
def test_hugging_face_equals_sentencepiece_on_real_text(data, tmp_path_factory, language):
    tokenizer = load_tokenizer(data / "chatglm3")
    folder = tmp_path_factory.mktemp("stock")
    huggingface.save(tokenizer, folder)
    backend = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    backend.encode_special_tokens = True
    with gzip.open(data / "text" / f"{language}.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = [line for _ in range(300) for line in json.loads(next(file))["text"].split("\n")]
    theirs = [encoding.ids for encoding in backend.encode_batch(lines, add_special_tokens=False)]
    assert theirs == tokenizer.encode_batch(lines)
