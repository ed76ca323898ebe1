import datetime
import gzip
import json
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.conversation.formats import ChatFormat, to_messages
from glmja.conversation.messages import check_messages
from glmja.conversation.record_fields import BadConversation, Reason
from glmja.conversation.rendering import render
from glmja.conversation.turns import check_turns, without_unanswered
from glmja.tokenization.chat_template import TOOL_PROMPT
from glmja.twin import build as twin
from tests.support.daily import drawn
from tests.support.strategies import TEXT_WITH_CONTROL_NAMES

SYSTEM = {"role": "system", "content": "短く。"}
USER = {"role": "user", "content": "東京の天気は？"}
ANSWER = {"role": "assistant", "content": "晴れです。"}
CALL = {"role": "assistant", "metadata": "weather", "content": "```python\ntool_call(city='東京', days=1)\n```"}
SEEN = {"role": "observation", "content": '{"sky": "clear"}'}
TOOLS = [{"name": "weather", "parameters": {}}]
FUNCTION = {"name": "weather", "arguments": {"city": "東京", "days": 1}}


def turn(name, value):
    return {"from": name, "value": value}


@pytest.mark.parametrize(
    ("chat_format", "record", "messages"),
    [
        ("messages", {"messages": [USER, CALL, SEEN, ANSWER], "lang": "ja"}, [USER, CALL, SEEN, ANSWER]),
        ("messages", {"messages": [USER | {"metadata": None, "tools": None}], "tools": []}, [USER]),
        ("messages", {"messages": [SEEN | {"role": "tool", "tool_call_id": "1"}]}, [SEEN]),
        ("messages", {"messages": [SYSTEM | {"tools": TOOLS}, USER]}, [SYSTEM | {"tools": TOOLS}, USER]),
        ("messages", {"messages": [SYSTEM, USER], "tools": TOOLS}, [SYSTEM | {"tools": TOOLS}, USER]),
        (
            "messages",
            {"messages": [USER], "tools": json.dumps(TOOLS)},
            [{"role": "system", "content": TOOL_PROMPT, "tools": TOOLS}, USER],
        ),
        (
            "messages",
            {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"function": FUNCTION}]}]},
            [USER, CALL],
        ),
        ("messages", {"messages": [ANSWER | {"tool_calls": [{"function": FUNCTION}]}]}, [ANSWER, CALL]),
        (
            "messages",
            {"messages": [SYSTEM | {"role": "developer"}, USER, {"role": "assistant", "function_call": FUNCTION},
                          SEEN | {"role": "function", "name": "weather"}], "functions": TOOLS},
            [SYSTEM | {"tools": TOOLS}, USER, CALL, SEEN],
        ),
        (
            "sharegpt",
            {
                "conversations": [
                    turn("human", USER["content"]),
                    turn("function_call", json.dumps(FUNCTION)),
                    turn("observation", SEEN["content"]),
                    turn("gpt", ANSWER["content"]),
                ],
                "system": SYSTEM["content"],
                "tools": json.dumps(TOOLS),
            },
            [SYSTEM | {"tools": TOOLS}, USER, CALL, SEEN, ANSWER],
        ),
        ("sharegpt", {"conversations": [turn("system", "短く。")], "system": "overridden"}, [SYSTEM]),
        (
            "sharegpt",
            {"conversations": [turn(n, "a") for n in ("user", "assistant", "chatglm", "bing", "bard", "tool")]},
            [{"role": r, "content": "a"} for r in ("user", *["assistant"] * 4, "observation")],
        ),
        ("sharegpt", {"conversations": [turn("function_call", json.dumps(FUNCTION | {"arguments": "{}"}))]},
         [{"role": "assistant", "metadata": "weather", "content": "```python\ntool_call()\n```"}]),
        ("alpaca", {"instruction": USER["content"], "output": ANSWER["content"]}, [USER, ANSWER]),
        ("alpaca", {"instruction": USER["content"], "input": "", "output": ANSWER["content"]}, [USER, ANSWER]),
        (
            "alpaca",
            {"instruction": "訳せ。", "input": "a", "output": "b", "history": [[USER["content"], ANSWER["content"]]],
             "system": SYSTEM["content"]},
            [SYSTEM, USER, ANSWER, {"role": "user", "content": "訳せ。\na"}, {"role": "assistant", "content": "b"}],
        ),
        ("adgen", {"content": USER["content"], "summary": ANSWER["content"]}, [USER, ANSWER]),
        (
            "prompt_response",
            {"prompt": USER["content"], "response": ANSWER["content"], "history": [["前", "後"]]},
            [{"role": "user", "content": "前"}, {"role": "assistant", "content": "後"}, USER, ANSWER],
        ),
        ("prompt_response", {"prompt": USER["content"], "response": ANSWER["content"], "history": []}, [USER, ANSWER]),
        ("chatglm3", {"conversations": [USER, ANSWER]}, [USER, ANSWER]),
    ],
)  # fmt: skip
def test_a_record_is_read_as_its_format_says(chat_format, record, messages):
    assert to_messages(record, chat_format) == messages


def test_tools_are_listed_as_in_chatglm3s_training_data(tokenizer):
    # TOOL_DEFINITION_PREFIX of ChatGLM3's preprocess_utils.py, before the tools
    expected = f"{TOOL_PROMPT}\n{json.dumps(TOOLS, indent=4, ensure_ascii=False)}"
    ours, _ = render(to_messages({"messages": [USER, ANSWER], "tools": TOOLS}, "messages"), tokenizer)
    assert ours == render([{"role": "system", "content": expected}, USER, ANSWER], tokenizer)[0]


def test_a_tool_call_is_written_as_in_chatglm3s_prompt():
    call = {"name": "get_current_weather", "arguments": {"location": "beijing", "exact": True, "unit": None}}
    (message,) = to_messages({"conversations": [turn("function_call", json.dumps(call))]}, "sharegpt")
    assert message["content"] == "```python\ntool_call(location='beijing', exact=True, unit=None)\n```"
    assert message["metadata"] == "get_current_weather"


@pytest.mark.parametrize(
    ("chat_format", "record", "reason", "message"),
    [
        ("messages", [], "wrong type", "^wrong type: the record is list, not an object$"),
        ("messages", {}, "missing key", r"^missing key: the record has no 'messages'; found \[\]$"),
        ("messages", {"text": "a", "b": None}, "missing key", r"the record has no 'messages'; found \['text'\]$"),
        ("messages", {"messages": "a"}, "wrong type", "the record has str as 'messages', not list$"),
        ("messages", {"messages": [USER, "a"]}, "wrong type", r"messages\[1\] is str, not an object$"),
        ("messages", {"messages": [turn("human", "a")]}, "missing key",
         r"messages\[0\] has no 'role'; found \['from', 'value'\]$"),
        ("messages", {"messages": [{"role": "user"}]}, "missing key",
         r"messages\[0\] has no 'content'; found \['role'\]$"),
        ("messages", {"messages": [USER | {"content": [{"type": "text"}]}]}, "wrong type",
         r"messages\[0\] has list as 'content', not str$"),
        ("messages", {"messages": [USER | {"metadata": 3}]}, "wrong type",
         r"messages\[0\] has int as 'metadata', not str$"),
        ("messages", {"messages": [USER | {"role": "bot"}]}, "unknown role",
         r"messages\[0\] is 'bot'; known are system, user, assistant, observation, developer, tool, function$"),
        ("messages", {"messages": [USER | {"tools": TOOLS}]}, "unreadable tools",
         r"messages\[0\] is user; only a system message can list tools$"),
        ("messages", {"messages": [SYSTEM | {"tools": TOOLS}], "tools": TOOLS}, "unreadable tools",
         "both the record and its system message list tools$"),
        ("messages", {"messages": [], "tools": {"a": 1}}, "unreadable tools",
         "the record has `tools` that are not a list of objects$"),
        ("messages", {"messages": [], "tools": "weather"}, "unreadable tools",
         "the record has 'weather', not JSON: Exp"),
        ("messages", {"messages": [], "tools": [{"day": datetime.date(2026, 1, 1)}]}, "unreadable tools",
         "type date is not JSON serializable"),
        ("messages", {"messages": [ANSWER | {"tool_calls": [{"id": "1"}]}]}, "missing key",
         r"messages\[0\].tool_calls has no 'function'; found \['id'\]$"),
        ("messages", {"messages": [USER | {"tool_calls": [{"function": FUNCTION}]}]}, "unreadable call",
         r"messages\[0\] is user; only the assistant can call tools$"),
        ("messages", {"messages": [ANSWER | {"tool_calls": [{"function": FUNCTION | {"name": ""}}]}]},
         "unreadable call", r"messages\[0\].tool_calls calls '' with {'city'"),
        ("messages", {"messages": [USER | {"content": "a\ud800"}]}, "lone surrogate", r"'\\ud800' is not a character$"),
        ("sharegpt", {"conversations": [USER, ANSWER]}, "missing key",
         r"conversations\[0\] has no 'from'; found \['role', 'content'\]; set `format` to chatglm3, which fits$"),
        ("messages", {"conversations": [turn("human", "a")]}, "missing key",
         "found \\['conversations'\\]; set `format` to sharegpt, which fits$"),
        ("messages", {"conversations": [turn("Human", "a")]}, "missing key",
         "found \\['conversations'\\]; set `format` to sharegpt, which fits$"),
        ("alpaca", {"prompt": "a", "response": "b"}, "missing key", "set `format` to prompt_response, which fits$"),
        ("chatglm3", {"conversations": [{"role": "tool", "name": "f", "parameters": {}}]}, "missing key",
         r"conversations\[0\] has no 'observation'; found \['role', 'name', 'parameters'\]$"),
        ("chatglm3", {"conversations": [{"role": "tool", "name": "f", "parameters": [], "observation": ""}]},
         "unreadable call", r"conversations\[0\] calls 'f' with \[\]; a call needs a name and keyword arguments$"),
        ("chatglm3", {"conversations": [{"role": "tool", "name": "f", "parameters": {}, "observation": {1}}]},
         "unreadable call", "Object of type set is not JSON serializable$"),
        ("sharegpt", {"messages": []}, "missing key", r"the record has no 'conversations'; found \['messages'\]$"),
        ("sharegpt", {"conversations": [turn("moss", "a")]}, "unknown role",
         r"conversations\[0\] is 'moss'; known are human, user, gpt, "),
        ("sharegpt", {"conversations": [turn("function_call", "[" * 100_000)]}, "unreadable call",
         "not JSON: .*recursion"),
        ("sharegpt", {"conversations": [turn("function_call", "look")]}, "unreadable call",
         r"conversations\[0\] has 'look', not JSON: Exp"),
        ("sharegpt", {"conversations": [turn("function_call", "[]")]}, "wrong type",
         r"conversations\[0\] is list, not an object$"),
        ("sharegpt", {"conversations": [turn("function_call", '{"name": "f"}')]}, "unreadable call",
         r"conversations\[0\] calls 'f' with None; a call needs a name and keyword arguments$"),
        ("sharegpt", {"conversations": [turn("function_call", '{"name": "f", "arguments": {"a b": 1}}')]},
         "unreadable call", r"calls 'f' with {'a b': 1}; a call needs a name and keyword arguments$"),
        ("alpaca", {"instruction": "a", "output": None}, "missing key",
         r"the record has no 'output'; found \['instruction'\]$"),
        ("alpaca", {"instruction": "a", "output": "b", "input": 3}, "wrong type", "has int as 'input', not str$"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["c", "d"], ["e", None]]}, "wrong type",
         r"history\[1\] is not a pair of strings$"),
        ("adgen", {"content": "a"}, "missing key", r"the record has no 'summary'; found \['content'\]$"),
    ],
)  # fmt: skip
def test_a_record_that_is_not_a_conversation_is_rejected_with_a_reason(chat_format, record, reason, message):
    with pytest.raises(BadConversation, match=message) as rejected:
        to_messages(record, chat_format)
    assert rejected.value.reason == reason
    assert "\n" not in str(rejected.value) and len(str(rejected.value)) < 200


KEYS = ["messages", "conversations", "role", "content", "from", "value", "instruction", "output", "tools"]
NOTHING = st.sampled_from([None, "", []])
WORDS = st.one_of(TEXT_WITH_CONTROL_NAMES, st.text(max_size=5), st.just("答え"))
ITEMS = st.one_of(
    st.sampled_from([USER, ANSWER, CALL, SEEN]),
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "observation", "tool", "bot"]), "content": WORDS},
        optional={"metadata": WORDS, "tools": st.one_of(NOTHING, st.just(TOOLS))},
    ),
)
RECORDS = st.fixed_dictionaries(
    {"messages": st.lists(ITEMS, max_size=6).map(lambda items: [USER, ANSWER, *items])},
    optional={"tools": st.one_of(NOTHING, st.just(TOOLS), WORDS)},
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text()), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(record=RECORDS)
def test_accepted_records_render_and_have_target_tokens(tokenizer, record):
    try:
        messages = without_unanswered(to_messages(record, "messages"))
        check_turns(messages)
    except BadConversation:
        return
    ids, loss_mask = render(messages, tokenizer)
    assert any(loss_mask) and ids[-1] == tokenizer.eos_id


@given(record=JSON, chat_format=st.sampled_from(get_args(ChatFormat)))
def test_any_json_is_a_conversation_or_rejected_with_a_reason(record, chat_format):
    try:
        messages = to_messages(record, chat_format)
    except BadConversation as rejected:
        assert rejected.reason in get_args(Reason)
    else:
        assert all(message["role"] and isinstance(message["content"], str) for message in messages)


def refusals(lines):
    """Counts the reasons for which conversations are rejected."""
    reasons = Counter()
    for line in lines:
        try:
            messages = to_messages(json.loads(line), "messages")
            check_turns(messages)
        except BadConversation as rejected:
            reasons[rejected.reason] += 1
            continue
        check_messages(messages)
        assert without_unanswered(messages) == messages
    return reasons


def test_the_shipped_conversations_are_accepted():
    with twin.text_file("conversations").open(encoding="utf-8") as lines:
        assert not refusals(lines)


@pytest.mark.parametrize(("name",), drawn("conversations", [("code",), ("en",), ("ja",), ("zh",)], 1))
def test_real_conversations_are_accepted(data, name):
    with gzip.open(data / "sft" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        assert not refusals(lines)
