"""The exported chat template against our reader, and the response template against our renderer."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import AutoTokenizer

from glmja.conversation.formats import to_messages
from glmja.conversation.rendering import render, render_prompt
from tests.support.strategies import TEXT

NAMES = st.sampled_from(["weather", "検索"])
CONTENT = st.one_of(st.none(), st.just(""), TEXT)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.sampled_from(["city", "日", "_n1"]), JSON, max_size=3)
INDENT = st.sampled_from([None, 2])
AS_TEXT = st.tuples(ARGUMENTS, st.booleans(), INDENT).map(
    lambda parts: json.dumps(parts[0], ensure_ascii=parts[1], indent=parts[2])
)
FUNCTIONS = st.fixed_dictionaries({"name": NAMES, "arguments": st.one_of(ARGUMENTS, AS_TEXT)})
IDS = st.sampled_from([None, "", "1", "2"])
CALLS = st.fixed_dictionaries({"id": IDS, "function": FUNCTIONS})
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
ROLES = ["system", "developer", "user", "assistant", "observation", "tool", "function"]
OTHER_ROLES = ["moss", "", "Assistant", "user|>x<|system", "<|user|>", "user\n", None, 3]
MESSAGES = st.fixed_dictionaries(
    {"role": st.one_of(st.sampled_from(ROLES[2:] * 4 + ROLES + OTHER_ROLES[:2])), "content": CONTENT},
    optional={
        "tool_calls": st.lists(CALLS, max_size=2), "function_call": st.one_of(st.none(), FUNCTIONS),
        "tool_call_id": IDS, "name": st.one_of(st.none(), NAMES), "metadata": st.one_of(st.none(), NAMES),
        "tools": st.sampled_from([None, [], TOOLS]),
    },
)  # fmt: skip


def rounds(num_calls, shuffled):
    """Messages of a round of parallel calls, as OpenAI's clients send it."""
    calls = [{"id": str(i), "type": "function", "function": {"name": "weather", "arguments": f'{{"n": {i}}}'}}
             for i in range(num_calls)]  # fmt: skip
    results = [{"role": "tool", "tool_call_id": str(i), "content": f"結果{i}"} for i in shuffled if i < num_calls]
    return [{"role": "user", "content": "天気は？"}, {"role": "assistant", "content": None, "tool_calls": calls},
            *results, {"role": "assistant", "content": "晴れ"}]  # fmt: skip


ROUNDS = st.builds(rounds, st.integers(1, 3), st.permutations(range(3)))


@pytest.fixture(scope="module")
def fast(tokenizer_dir):
    return AutoTokenizer.from_pretrained(tokenizer_dir)


def rendered(reader):
    try:
        return reader()
    except (TemplateError, ValueError, TypeError, AttributeError):
        return None


def check(fast, tokenizer, messages, tools=None):
    """Asserts that template and reader give the same ids or both refuse; returns the ids of the prompt."""

    def ours(render_messages):
        return rendered(lambda: render_messages(to_messages({"messages": messages, "tools": tools}, "messages")))

    def theirs(prompts):
        return rendered(
            lambda: fast.apply_chat_template(messages, tools=tools, add_generation_prompt=prompts, return_dict=False)
        )

    prompt = theirs(True)
    assert prompt == ours(lambda read: render_prompt(read, tokenizer))
    assert theirs(False) == ours(lambda read: render(read, tokenizer)[0])
    return prompt


@settings(max_examples=300)
@given(messages=st.lists(MESSAGES, min_size=1, max_size=5), tools=st.sampled_from([None, TOOLS]))
def test_the_template_gives_the_ids_of_the_reader_or_both_refuse(fast, tokenizer, messages, tools):
    check(fast, tokenizer, messages, tools)


@given(first=st.lists(MESSAGES, max_size=1), rounds=ROUNDS, tools=st.sampled_from([None, TOOLS]))
def test_parallel_calls_of_openais_clients_are_rendered_as_the_reader_does(fast, tokenizer, first, rounds, tools):
    check(fast, tokenizer, [*first, *rounds], tools)
    assert check(fast, tokenizer, rounds, tools)


@settings(max_examples=300)
@given(arguments=ARGUMENTS, ensure_ascii=st.booleans(), indent=INDENT)
def test_arguments_as_json_text_are_rendered_as_python(fast, tokenizer, arguments, ensure_ascii, indent):
    text = json.dumps(arguments, ensure_ascii=ensure_ascii, indent=indent)
    call = {"function": {"name": "weather", "arguments": text}}
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert check(fast, tokenizer, messages)


@pytest.mark.parametrize("arguments", ["", "{", "[]", "3", '{"a": 1', '{"a b": 1}', '{"a": oops}', None, 3, []])
def test_arguments_that_are_not_keyword_arguments_are_refused(fast, tokenizer, arguments):
    call = {"function": {"name": "weather", "arguments": arguments}}
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert check(fast, tokenizer, messages) is None


@pytest.mark.parametrize("role", OTHER_ROLES)
def test_a_role_that_the_template_does_not_know_is_refused(fast, tokenizer, role):
    messages = [{"role": "user", "content": "a"}, {"role": role, "content": "b"}]
    assert check(fast, tokenizer, messages) is None
    with pytest.raises(
        TemplateError, match="is unknown; known are system, developer, user, assistant, observation, tool"
    ):
        fast.apply_chat_template(messages)


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning", "refusal"])
def test_text_without_a_place_is_refused(fast, tokenizer, key):
    assert (
        check(fast, tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", key: "c"}])
        is None
    )


def test_without_tools_the_answer_begins_after_the_metadata_line(fast, tokenizer):
    question = [{"role": "user", "content": "桜は？"}]
    prompt, with_tools = check(fast, tokenizer, question), check(fast, tokenizer, question, TOOLS)
    assert prompt[-3:] == [tokenizer.role_id("assistant"), *tokenizer.encode("\n")]
    assert with_tools[-1] == tokenizer.role_id("assistant")
    whole = render([*question, {"role": "assistant", "content": "春です。"}], tokenizer)[0]
    assert whole == [*prompt, *tokenizer.encode("春です。"), tokenizer.eos_id]


STRINGS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Zs", "Cf", "Co", "Cn"),
                                exclude_characters="'\\\"▁<"), max_size=8)  # fmt: skip
SIMPLE = st.recursive(
    STRINGS | st.integers(-99, 10**6) | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["city", "n1"]), SIMPLE, min_size=0, max_size=2))
def test_a_call_is_parsed_into_tool_calls(fast, tokenizer, arguments):
    call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
    question = [{"role": "user", "content": "天気は？"}]
    whole = check(fast, tokenizer, [*question, {"role": "assistant", "content": None, "tool_calls": [call]}], TOOLS)
    prompt = check(fast, tokenizer, question, TOOLS)
    ids = [*whole[len(prompt) : -1], tokenizer.role_id("observation")]
    assert fast.parse_response(ids, prefix=prompt)["tool_calls"] == [call]
