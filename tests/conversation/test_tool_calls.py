"""Tool calls: ChatGLM3's own files, and several calls at once."""

import ast
import json
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.conversation.formats import to_messages
from glmja.conversation.record_fields import BadConversation
from glmja.conversation.rendering import render
from glmja.conversation.turns import check_turns
from glmja.tokenization.chat_template import TOOL_PROMPT

USER = {"role": "user", "content": "東京と大阪の天気は"}
ANSWER = {"role": "assistant", "content": "東京は晴、大阪は雨です"}
CITIES = ["東京", "大阪", "京都"]
TOOLS = [{"name": "weather", "parameters": {}}]


def called(city, name="weather"):
    return {"role": "assistant", "metadata": name, "content": f"```python\ntool_call(city={city!r})\n```"}


def seen(city):
    return {"role": "observation", "content": f"{city}は晴"}


def openai_call(city, name="weather"):
    return {"id": city, "type": "function", "function": {"name": name, "arguments": json.dumps({"city": city})}}


def openai_result(city, **keys):
    return {"role": "tool", "tool_call_id": city, "content": f"{city}は晴"} | keys


def in_turns(cities):
    return [USER, *(message for city in cities for message in (called(city), seen(city))), ANSWER]


@pytest.mark.parametrize("order", permutations(CITIES))
def test_each_call_is_followed_by_the_result_that_names_it(order):
    calls = {"role": "assistant", "content": None, "tool_calls": [openai_call(city) for city in CITIES]}
    record = {"messages": [USER, calls, *map(openai_result, order), ANSWER]}
    messages = to_messages(record, "messages")
    assert messages == in_turns(CITIES)
    check_turns(messages)


def test_results_without_identifiers_follow_the_calls_in_order():
    calls = [{"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"city": city}})}
             for city in CITIES]  # fmt: skip
    at_once = {"from": "function_call", "value": json.dumps([json.loads(call["value"]) for call in calls])}
    results = [{"from": "observation", "value": f"{city}は晴"} for city in CITIES]
    human, gpt = {"from": "human", "value": USER["content"]}, {"from": "gpt", "value": ANSWER["content"]}
    for made in (calls, [at_once]):
        record = {"conversations": [human, *made, *results, gpt]}
        assert to_messages(record, "sharegpt") == in_turns(CITIES)
    metadata = {"messages": [USER, *map(called, CITIES), *map(seen, CITIES), ANSWER]}
    assert to_messages(metadata, "messages") == in_turns(CITIES)
    said = {"role": "assistant", "content": "調べます", "tool_calls": [openai_call(city) for city in CITIES[:2]]}
    record = {
        "messages": [USER, said, openai_result("大阪"), openai_result("東京"), said, *map(openai_result, CITIES[:2])]
    }
    thought, rounds = {"role": "assistant", "content": "調べます"}, in_turns(CITIES[:2])[1:-1]
    assert to_messages(record, "messages") == [USER, thought, *rounds, thought, *rounds]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], r"2 calls in a row have 0 results with the ids \[\] for \['東京', '大阪'\]; ChatGLM3 makes one call at"),
        ([openai_result("東京")], "2 calls in a row have 1 results"),
        ([openai_result(city) for city in CITIES], "2 calls in a row have 3 results"),
        ([openai_result("東京"), openai_result("京都")], r"with the ids \['東京', '京都'\] for \['東京', '大阪'\]"),
        ([openai_result("東京"), openai_result("東京")], r"with the ids \['東京', '東京'\] for"),
        ([{"role": "tool", "name": name, "content": "a"} for name in ("weather", "time")],
         "the result of 'time' answers a call of 'weather'; give the results `tool_call_id`$"),
    ],
)  # fmt: skip
def test_calls_without_a_result_each_are_refused_for_what_they_are(results, message):
    calls = {"role": "assistant", "content": None, "tool_calls": [openai_call(city) for city in CITIES[:2]]}
    with pytest.raises(BadConversation, match=message) as rejected:
        to_messages({"messages": [USER, calls, *results, ANSWER]}, "messages")
    assert rejected.value.reason == "unanswered call"


def test_a_list_of_calls_may_not_be_empty():
    with pytest.raises(BadConversation, match=r"conversations\[0\] is list, not an object$"):
        to_messages({"conversations": [{"from": "function_call", "value": "[]"}]}, "sharegpt")


# What ChatGLM3's own fine-tuning code makes of a conversation: see `format_conversation` in
# https://github.com/THUDM/ChatGLM3/blob/174470a39343647e2780f8fd9d0edbf4786cdb23/finetune_chatmodel_demo/preprocess_utils.py
# Written here from its rules. The mask of a token is whether the token after it is a target.
def chatglm3s_own(items, tools, tokenizer):
    ids, predicts = tokenizer.prefix_ids, [False, False]

    def add(role, metadata, content, targets):
        message = [tokenizer.role_id(role), *tokenizer.encode(f"{metadata}\n"), *tokenizer.encode(content)]
        ids.extend(message)
        predicts.extend([targets] * len(message))

    if tools:
        add("system", "", f"{TOOL_PROMPT}\n{json.dumps(tools, indent=4, ensure_ascii=False)}", False)
    for item in items:
        targets = item.get("loss", True) and item["role"] not in ("system", "user")
        if item["role"] == "tool":
            keywords = [ast.keyword(arg=key, value=ast.Constant(value)) for key, value in item["parameters"].items()]
            code = ast.unparse(ast.Call(ast.Name("tool_call"), [], keywords))
            add("assistant", item["name"], f"```python\n{code}\n```", targets)
            observation = item["observation"]
            text = observation if isinstance(observation, str) else json.dumps(observation, ensure_ascii=False)
            add("observation", "", text, False)
        else:
            add(item["role"], "", item["content"], targets)
    return [*ids, tokenizer.eos_id], [False, *predicts]


TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\u2581"), max_size=8)
VALUES = st.one_of(TEXTS, st.integers(), st.booleans(), st.none(), st.floats(-9, 9))
KEYS = st.sampled_from(["city", "日", "n1"])
LOSS = {"loss": st.booleans()}
ANSWERS = st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXTS.map("答え{}".format)}, optional=LOSS)
USED = st.fixed_dictionaries(
    {"role": st.just("tool"), "name": st.sampled_from(["weather", "検索"]), "parameters": st.dictionaries(KEYS, VALUES),
     "observation": st.one_of(TEXTS, st.dictionaries(KEYS, VALUES), st.lists(VALUES))},
    optional=LOSS,
)  # fmt: skip
ROUNDS = st.tuples(
    st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS}, optional=LOSS),
    st.lists(USED, max_size=2),
    ANSWERS,
).map(lambda parts: [parts[0], *parts[1], parts[2]])


@given(
    rounds=st.lists(ROUNDS, min_size=1, max_size=3),
    tools=st.sampled_from([None, TOOLS]),
    system=st.sampled_from([None, {"role": "system", "content": "短く。", "loss": True}]),
)
def test_chatglm3s_own_files_give_the_ids_and_the_loss_mask_of_chatglm3s_own_code(tokenizer, rounds, tools, system):
    items = [item for items in rounds for item in items]
    if system and not tools:  # with both, ChatGLM3's code makes two system messages
        items = [system, *items]
    messages = to_messages({"conversations": items, "tools": tools}, "chatglm3")
    assert render(messages, tokenizer) == chatglm3s_own(items, tools, tokenizer)
