import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glmja.conversation.messages import check_messages, has_tools, without_oldest_turns
from glmja.conversation.rendering import (
    question_ids,
    render,
    render_prompt,
    render_rounds,
    render_within,
    show,
)
from glmja.families.recognition import load_tokenizer
from glmja.tokenization.tokenizer import GLMTokenizer
from tests.support.strategies import ADVERSARIAL_TEXT, FORGERIES


def test_the_format_is_chatglm3s(tokenizer):
    t = tokenizer
    messages = [
        {"role": "system", "content": "短く。"},
        {"role": "user", "content": "白日"},
        {"role": "assistant", "metadata": "tool", "content": "です"},
    ]
    ids, _ = render(messages, t)
    assert ids == [
        t.control_id("[gMASK]"), t.control_id("<sop>"),
        t.role_id("system"), *t.encode("\n"), *t.encode("短く。"),
        t.role_id("user"), *t.encode("\n"), *t.encode("白日"),
        t.role_id("assistant"), *t.encode("tool\n"), *t.encode("です"), t.eos_id,
    ]  # fmt: skip


def test_only_the_assistants_text_has_target_tokens(tokenizer):
    ids, loss_mask = render([{"role": "user", "content": "白日"}, {"role": "assistant", "content": "です"}], tokenizer)
    answer = [*tokenizer.encode("\n"), *tokenizer.encode("です"), tokenizer.eos_id]
    assert [i for i, kept in zip(ids, loss_mask, strict=True) if kept] == answer


def test_the_role_token_that_ends_a_turn_is_a_target_token(tokenizer):
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    ids, loss_mask = render(messages, tokenizer)
    roles = [(i, kept) for i, kept in zip(ids, loss_mask, strict=True) if i in tokenizer.control_tokens.values()]
    user, assistant = tokenizer.role_id("user"), tokenizer.role_id("assistant")
    assert roles[2:] == [(user, False), (assistant, False), (user, True), (assistant, False), (tokenizer.eos_id, True)]


def test_only_an_assistants_message_is_followed_by_the_end_of_text(tokenizer):
    ids, loss_mask = render([{"role": "user", "content": "a"}], tokenizer)
    assert tokenizer.eos_id not in ids
    assert not any(loss_mask)


@pytest.mark.parametrize("num_texts", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_content_forges_a_turn(tokenizer, num_texts):
    control, opening = set(tokenizer.control_tokens.values()), tokenizer.prefix_ids
    system, user, assistant = (tokenizer.role_id(role) for role in ("system", "user", "assistant"))

    def control_ids(ids):
        return [token for token in ids if token in control]

    def check_text(text, cut):
        parts = [text[:cut], text[cut:]]  # a name may be split over two messages, or a message and its metadata
        messages = [{"role": "user", "content": part, "metadata": parts[0]} for part in parts]
        tools = [{"name": text, "parameters": {parts[0]: parts[1]}}]
        with_tools = [{"role": "system", "content": parts[0], "tools": tools}, *messages]
        assert control_ids(render(messages, tokenizer)[0]) == [*opening, user, user]
        assert control_ids(render_prompt(with_tools, tokenizer)) == [*opening, system, user, user, assistant]
        assert control_ids(question_ids(text, tokenizer)) == [*opening, user, assistant]
        for prompt_format in ("chatglm2", "chatglm"):
            assert control_ids(render_rounds([{"role": "user", "content": text}], tokenizer, prompt_format)) == opening

    for text in FORGERIES:
        check_text(text, len(text) // 2)
    settings(max_examples=num_texts)(given(ADVERSARIAL_TEXT, st.integers(0, 40))(check_text))()


def test_the_prompt_is_the_conversation_up_to_the_reply(tokenizer):
    messages = [{"role": "user", "content": "白日"}, {"role": "assistant", "content": "です"}]
    ids, _ = render(messages, tokenizer)
    prompt = render_prompt(messages[:1], tokenizer)
    assert ids[: len(prompt)] == prompt


def test_tools_are_listed_below_the_system_message(tokenizer):
    tools = [{"name": "検索"}]
    with_tools, _ = render([{"role": "system", "content": "T", "tools": tools}], tokenizer)
    expected = "T\n" + json.dumps(tools, indent=4, ensure_ascii=False)
    assert with_tools == render([{"role": "system", "content": expected}], tokenizer)[0]


def test_show_colors_target_tokens_green(tokenizer):
    ids, loss_mask = render([{"role": "user", "content": "白日"}, {"role": "assistant", "content": "です"}], tokenizer)
    text = show(ids, loss_mask, tokenizer)
    assert "<|assistant|>" in text.plain and "です" in text.plain
    styles = [str(span.style) for span in text.spans]
    assert ["green" in style for style in styles] == loss_mask
    with pytest.raises(ValueError, match=rf"ids and loss_mask must have the same length, got {len(ids)} and 1"):
        show(ids, [True], tokenizer)


def test_show_neutralizes_terminal_control_sequences(tokenizer, monkeypatch):
    monkeypatch.setattr(GLMTokenizer, "piece", lambda *_: "\u2581a\x1b\u202e")
    assert show([5], [False], tokenizer).plain == " a\ufffd\ufffd"


TURNS = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好{0}"},
    {"role": "user", "content": "海は？"},
]


@pytest.mark.parametrize(
    ("prompt_format", "messages", "text"),
    [
        ("chatglm2", TURNS[:1], "[Round 1]\n\n问：你好\n\n答："),
        ("chatglm2", TURNS, "[Round 1]\n\n问：你好\n\n答：你好{0}\n\n[Round 2]\n\n问：海は？\n\n答："),
        ("chatglm", TURNS[:1], "你好"),
        ("chatglm", TURNS, "[Round 0]\n问：你好\n答：你好{0}\n[Round 1]\n问：海は？\n答："),
    ],
)
def test_rounds_are_encoded_as_one_text(tokenizer, prompt_format, messages, text):
    assert render_rounds(messages, tokenizer, prompt_format) == [*tokenizer.prefix_ids, *tokenizer.encode(text)]


# Ids of ChatGLM2's own tokenizer, from the tests of chatglm.cpp:
# https://github.com/li-plus/chatglm.cpp/blob/main/chatglm_test.cpp
ROUND_1 = [790, 30951, 517, 30910, 30939, 30996, 13, 13, 54761, 31211, 39701, 13, 13, 55437, 31211]
ANSWER_1 = [
    39701, 243, 162, 148, 142, 31404, 33030, 34797, 42481, 22011, 10461, 30944, 30943, 30941, 30978, 30949, 31123,
    48895, 35214, 54622, 31123, 32616, 39905, 31901, 31639, 31155, 13, 13,
]  # fmt: skip
ROUND_2 = [
    30995, 30951, 517, 30910, 30943, 30996, 13, 13, 54761, 31211, 32820, 54266, 31876, 35153, 13, 13, 55437, 31211,
]  # fmt: skip


def test_ids_of_rounds_equal_those_of_chatglm2s_own_tokenizer(data):
    tokenizer = load_tokenizer(data / "chatglm3")
    hello = "你好👋！我是人工智能助手 ChatGLM2-6B，很高兴见到你，欢迎问我任何问题。"
    turns = [TURNS[0], {"role": "assistant", "content": hello}, {"role": "user", "content": "晚上睡不着应该怎么办"}]
    assert render_rounds(turns[:1], tokenizer) == [64790, 64792, *ROUND_1]
    assert render_rounds(turns, tokenizer) == [64790, 64792, *ROUND_1, *ANSWER_1, *ROUND_2]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (
            [{"role": "system", "content": "s"}, *TURNS],
            "message 0 has the role system, not user; the format chatglm2 has user",
        ),
        ([*TURNS[:2], {"role": "observation", "content": "o"}], "message 2 has the role observation, not user; the"),
        ([TURNS[0], TURNS[0]], "message 1 has the role user, not assistant; the format chatglm2 has user"),
        (
            [TURNS[0], TURNS[1] | {"metadata": "tool"}, TURNS[2]],
            "message 1 has metadata; the format chatglm2 has user",
        ),
        (TURNS[:2], "the last message is the assistant's; a prompt of chatglm2 ends with a question"),
        ([], "the conversation has no messages"),
        ([{"role": "system", "content": "s", "tools": [{}]}], "message 0 has the role system, not user"),
    ],
)
def test_messages_that_rounds_cannot_express_are_rejected(tokenizer, messages, message):
    with pytest.raises(ValueError, match=message):
        render_rounds(messages, tokenizer)


def test_the_oldest_turns_are_dropped_first_and_the_system_message_is_kept(tokenizer):
    system = {"role": "system", "content": "s"}
    assert list(without_oldest_turns([system, *TURNS])) == [[system, *TURNS], [system, TURNS[2]]]
    assert list(without_oldest_turns(TURNS[:2])) == [TURNS[:2]]
    whole, rest = (render(messages, tokenizer) for messages in ([system, *TURNS], [system, TURNS[2]]))
    assert render_within([system, *TURNS], tokenizer, len(whole[0])) == (*whole, False)
    assert render_within([system, *TURNS], tokenizer, len(whole[0]) - 1) == (*rest, True)
    ids, loss_mask, shortened = render_within([system, *TURNS], tokenizer, 4)
    assert (ids, loss_mask, shortened) == (rest[0][:4], rest[1][:4], True)
    assert render_within(TURNS[:1], tokenizer, 4)[2]


def turn(prompt, answer, **tool):
    called = [{"role": "assistant", "content": "x", "loss": False}, {"role": "observation", **tool}] if tool else []
    return [{"role": "user", "content": prompt}, *called, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("answer", ["短い答え。", "長い答え。" * 40])
def test_a_prompt_that_is_too_long_is_cut_to_make_room_for_the_answer(tokenizer, answer):
    messages = turn("長い質問です。" * 100, answer)
    whole, _ = render(messages, tokenizer)
    ids, loss_mask, shortened = render_within(messages, tokenizer, 64)
    targets = [i for i, mine in zip(*render(messages, tokenizer), strict=True) if mine]
    kept = [i for i, mine in zip(ids, loss_mask, strict=True) if mine]
    assert len(ids) == 64 and shortened
    assert kept == targets[: max(32, 64 - (len(whole) - len(targets)))][: len(kept)]
    assert len(kept) == min(len(targets), 32)  # whole with its end, or half of the row
    assert ids[: 64 - len(kept) - 1] == whole[: 64 - len(kept) - 1]  # the prompt loses its end


def test_an_answer_loses_its_end_if_the_prompt_takes_less_than_half(tokenizer):
    messages = turn("質問", "長い答え。" * 100)
    whole = render(messages, tokenizer)
    assert render_within(messages, tokenizer, 64) == (whole[0][:64], whole[1][:64], True)


def test_the_longest_messages_of_a_prompt_are_cut_first(tokenizer):
    messages = turn("質問です。", "答え。", content="長い結果です。" * 100)
    ids, loss_mask, _ = render_within(messages, tokenizer, 64)
    assert (len(ids), sum(loss_mask)) == (64, sum(render(messages, tokenizer)[1]))
    assert tokenizer.decode(ids).count("質問です。") == 1


def test_a_prompt_is_not_cut_within_a_character(tokenizer):
    assert "<0x" in tokenizer.piece(tokenizer.encode("𠀀")[-1])
    for row_len in range(40, 52):
        ids, _, _ = render_within(turn("𠀀" * 100, "答え。"), tokenizer, row_len)
        assert "\ufffd" not in tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the conversation has no messages"),
        ([{"role": "bot", "content": "a"}], "message 0 has the role 'bot'; it must be one of system, user"),
        ([{"content": "a"}], "message 0 has the role None"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], "message 1 is a system message; only"),
        (
            [{"role": "user", "content": "a", "tools": [{}]}],
            r"message 0 \(user\) lists tools; only a system message can",
        ),
        ([{"role": "user", "content": None}], r"message 0 \(user\): 'content' is not a string: None"),
        (
            [{"role": "assistant", "content": "a", "metadata": 3}],
            r"message 0 \(assistant\): 'metadata' is not a string: 3",
        ),
        (
            [{"role": "assistant", "content": "a", "loss": "no"}],
            r"message 0 \(assistant\): 'loss' is 'no'; true or false",
        ),
    ],
)
def test_a_malformed_conversation_is_rejected(messages, message):
    with pytest.raises(ValueError, match=message):
        check_messages(messages)


def test_ids_equal_those_of_chatglm3s_own_tokenizer(data):
    tokenizer = load_tokenizer(data / "chatglm3")
    for case in json.loads((data / "chatglm3" / "chat_ids.json").read_text(encoding="utf-8")):
        messages = [*case["history"], {"role": case["role"], "content": case["query"]}]
        prompt = render_prompt(messages, tokenizer)
        assert prompt[: len(case["ids"])] == case["ids"]
        assert prompt[len(case["ids"]) :] == ([] if has_tools(messages) else tokenizer.encode("\n"))


def test_optional_keys_may_be_none_as_in_a_table(tokenizer):
    plain = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    table = [message | {"metadata": None, "tools": None} for message in plain]
    empty = [plain[0] | {"tools": [], "metadata": ""}, plain[1]]
    assert render(table, tokenizer) == render(empty, tokenizer) == render(plain, tokenizer)
