"""Keys of records: those that change which messages are trained on, those of other names, and those without effect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.conversation.formats import format_of, read_conversation, to_messages
from glmja.conversation.record_fields import BadConversation
from glmja.conversation.rendering import render

USER = {"role": "user", "content": "一"}
BAD = {"role": "assistant", "content": "悪い答え"}
GOOD = {"role": "assistant", "content": "良い答え"}
SWITCHES = ["weight", "loss", "train", "trainable", "training", "learn"]


def target_text(messages, tokenizer):
    ids, loss_mask = render(messages, tokenizer)
    return tokenizer.decode([i for i, is_target in zip(ids, loss_mask, strict=True) if is_target])


def in_format(chat_format, answer):
    """A conversation with two answers, of which the first has the keys of `answer`."""
    if chat_format == "sharegpt":
        turns = [{"from": "human", "value": "一"}, {"from": "gpt", "value": "悪い答え"} | answer]
        return {"conversations": [*turns, {"from": "human", "value": "二"}, {"from": "gpt", "value": "良い答え"}]}
    key = "messages" if chat_format == "messages" else "conversations"
    return {key: [USER, BAD | answer, USER, GOOD]}


@pytest.mark.parametrize("chat_format", ["messages", "sharegpt", "chatglm3"])
@pytest.mark.parametrize("key", SWITCHES)
def test_a_message_with_loss_false_or_weight_0_is_not_trained_on(tokenizer, chat_format, key):
    for value in (0, False, 0.0):
        messages = to_messages(in_format(chat_format, {key: value}), chat_format)
        assert target_text(messages, tokenizer) == target_text([USER, GOOD], tokenizer)
        assert render(messages, tokenizer)[0] == render([USER, BAD, {**USER, "content": messages[2]["content"]}, GOOD],
                                                        tokenizer)[0]  # fmt: skip
    for value in (1, True, 1.0, None):
        plain = to_messages(in_format(chat_format, {}), chat_format)
        assert to_messages(in_format(chat_format, {key: value}), chat_format) == plain


@pytest.mark.parametrize("chat_format", ["messages", "sharegpt", "chatglm3"])
@pytest.mark.parametrize(
    ("keys", "reason", "message"),
    [
        ({"weight": 0.5}, "unreadable weight", r"\[1\] has 'weight': 0.5; 0 or 1, false or true$"),
        ({"train": "no"}, "unreadable weight", r"\[1\] has 'train': 'no'; 0 or 1, false or true$"),
        ({"loss": True, "weight": 0}, "unreadable weight", r"\[1\] contradicts itself: {'weight': 0, 'loss': True}$"),
        (
            {"reasoning_content": "考え"},
            "unsupported key",
            r"\[1\] has 'reasoning_content', which cannot be trained on; rem",
        ),
        ({"thinking": "考え"}, "unsupported key", r"\[1\] has 'thinking', which"),
        ({"train_detail": [{"begin_offset": 0}]}, "unsupported key", r"\[1\] has 'train_detail', which"),
        ({"loss_scale": [0.5]}, "unsupported key", r"\[1\] has 'loss_scale', which"),
        ({"refusal": "嫌です"}, "unsupported key", r"\[1\] has 'refusal', which"),
    ],
)
def test_what_cannot_be_honoured_is_refused(chat_format, keys, reason, message):
    with pytest.raises(BadConversation, match=message) as rejected:
        to_messages(in_format(chat_format, keys), chat_format)
    assert rejected.value.reason == reason


def test_only_the_assistant_can_be_trained_on(tokenizer):
    record = {"messages": [USER | {"weight": 1}, GOOD]}
    with pytest.raises(
        BadConversation, match=r"messages\[0\] is user with 'weight': 1; only the assistant is trained on$"
    ):
        to_messages(record, "messages")
    assert to_messages({"messages": [USER | {"weight": 0}, GOOD]}, "messages") == [USER, GOOD]
    # ChatGLM3's own code never learns users and system messages, whatever they say
    assert to_messages({"conversations": [USER | {"loss": True}, GOOD]}, "chatglm3") == [USER, GOOD]


@pytest.mark.parametrize(
    "extra", [{"weight": 0.5}, {"weight": 0}, {"train": False}, {"loss": False}, {"trainable": False}]
)
def test_a_record_with_a_weight_of_its_own_is_refused(extra):
    for record, chat_format in (
        ({"messages": [USER, GOOD]}, "messages"),
        ({"instruction": "a", "output": "b"}, "alpaca"),
        ({"prompt": "a", "response": "b"}, "prompt_response"),
    ):
        with pytest.raises(
            BadConversation, match=r"the record has .*; leave the record out, or set the `weight` of its"
        ):
            to_messages(record | extra, chat_format)
    goods = {"content": "a", "summary": "b", "weight": "3 kg"}
    assert read_conversation(goods, "adgen").unknown_keys == ["weight"]
    assert read_conversation(goods | {"weight": 1}, "adgen").unknown_keys == []


@pytest.mark.parametrize(
    ("chat_format", "record", "unknown"),
    [
        ("messages", {"messages": [USER, GOOD], "lang": "ja", "id": 3, "note": None}, ["id", "lang"]),
        (
            "messages",
            {"messages": [USER | {"name": "太郎"}, GOOD | {"score": 1}]},
            ["messages[].name", "messages[].score"],
        ),
        ("sharegpt", {"conversations": [{"from": "human", "value": "a", "lang": "ja"}]}, ["conversations[].lang"]),
        ("alpaca", {"instruction": "a", "output": "b", "history": [], "text": "c"}, ["text"]),
        ("prompt_response", {"prompt": "a", "response": "b", "rejected": "c"}, ["rejected"]),
        ("adgen", {"content": "a", "summary": "b"}, []),
    ],
)
def test_keys_without_effect_are_named(chat_format, record, unknown):
    assert read_conversation(record, chat_format).unknown_keys == unknown


@pytest.mark.parametrize(
    ("chat_format", "record", "columns", "messages"),
    [
        ("prompt_response", {"q": "一", "a": {"text": "良い答え"}}, {"prompt": "q", "response": "a.text"},
         [USER, GOOD]),
        ("messages", {"dialog": [{"who": "user", "content": "一"}, {"who": "assistant", "content": "良い答え"}]},
         {"messages": "dialog", "role": "who"}, [USER, GOOD]),
        ("adgen", {"content": "違う", "question": "一", "summary": "良い答え"}, {"content": "question"}, [USER, GOOD]),
        ("alpaca", {"a.b": "一", "output": "良い答え"}, {"instruction": "a.b"}, [USER, GOOD]),
    ],
)  # fmt: skip
def test_columns_name_the_keys_of_a_format(chat_format, record, columns, messages):
    assert to_messages(record, chat_format, columns) == messages


def test_a_missing_column_is_named_as_in_the_file():
    with pytest.raises(BadConversation, match=r"the record has no 'q.text'; found \['a'\]$"):
        to_messages({"a": "b"}, "prompt_response", {"prompt": "q.text"})


@pytest.mark.parametrize(
    ("record", "chat_format"),
    [
        ({"messages": [USER, GOOD]}, "messages"),
        ({"conversations": [USER, GOOD]}, "chatglm3"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "sharegpt"),
        ({"instruction": "a", "output": "b"}, "alpaca"),
        ({"prompt": "a", "response": "b"}, "prompt_response"),
        ({"content": "a", "summary": "b"}, "adgen"),
    ],
)
def test_a_format_is_recognized_by_its_keys(record, chat_format):
    assert format_of(record) == chat_format
    assert format_of([record]) is format_of({"text": "a"}) is None


@given(switches=st.lists(st.sampled_from([None, 0, 1, True, False]), min_size=1, max_size=5))
def test_exactly_the_messages_that_are_not_excluded_are_trained_on(tokenizer, switches):
    texts = [f"{number}番の答え" for number in range(len(switches))]
    items = [
        item
        for text, switch in zip(texts, switches, strict=True)
        for item in (USER, {"role": "assistant", "content": text, "loss": switch})
    ]
    said = target_text(to_messages({"messages": items}, "messages"), tokenizer)
    assert [text in said for text in texts] == [switch is None or bool(switch) for switch in switches]
