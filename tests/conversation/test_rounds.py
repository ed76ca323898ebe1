import json

import pytest

from glmja.conversation.record_fields import BadConversation
from glmja.conversation.rendering import render_examples, render_prompt
from glmja.conversation.rounds import render_rounds
from glmja.families.recognition import load_tokenizer
from tests.support.families import as_chatglm2

TALK = [
    {"role": "user", "content": "一"}, {"role": "assistant", "content": "二"},
    {"role": "user", "content": "三"}, {"role": "assistant", "content": "四", "loss": False},
    {"role": "user", "content": "五"}, {"role": "assistant", "content": "六\n七"},
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(chatglm1_dir):
    return load_tokenizer(chatglm1_dir)


@pytest.fixture(scope="module")
def chatglm2(base_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chatglm2")
    (folder / "tokenizer.model").write_bytes((base_dir / "tokenizer.model").read_bytes())
    return load_tokenizer(as_chatglm2(folder))


def targets_of(example):
    ids, loss_mask, _ = example
    return [i for i, is_target in zip(ids, loss_mask, strict=True) if is_target]


@pytest.mark.parametrize("vocabulary", ["tokenizer", "chatglm2"])
def test_each_answer_is_an_example_after_the_prompt_that_chat_would_send(vocabulary, request):
    tokenizer = request.getfixturevalue(vocabulary)
    examples = render_examples(TALK, tokenizer, 200)
    assert len(examples) == 2
    for example, end in zip(examples, (1, 5), strict=True):
        answer = [*tokenizer.encode(TALK[end]["content"]), tokenizer.eos_id]
        assert example[0] == render_prompt(TALK[:end], tokenizer) + answer
        assert targets_of(example) == answer and not example[2]


def test_the_token_that_begins_an_answer_is_given_and_no_target(tokenizer):
    ids, loss_mask, _ = render_examples(TALK[:2], tokenizer, 200)[0]
    assert not loss_mask[ids.index(tokenizer.control_id("<sop>"))]


def test_the_oldest_rounds_are_dropped_and_the_others_renumbered(tokenizer):
    whole = render_examples(TALK, tokenizer, 200)[1][0]
    ids, _, shortened = render_examples(TALK, tokenizer, len(whole) - 1)[1]
    expected = [*render_rounds(TALK[2:5], tokenizer, "chatglm"), *tokenizer.encode("六\n七"), tokenizer.eos_id]
    assert shortened and ids == expected


def test_a_long_question_keeps_its_end_and_a_long_answer_its_beginning(tokenizer):
    question, answer = "一二三四五六七八九十" * 4, "天地人" * 10
    talk = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    asked, said = tokenizer.encode(question), [*tokenizer.encode(answer), tokenizer.eos_id]
    for max_len in (16, 24, len(said) + 8, len(asked) + len(said) + 1):
        ((ids, loss_mask, shortened),) = render_examples(talk, tokenizer, max_len)
        assert shortened and len(ids) == len(loss_mask) <= max_len
        start = ids.index(tokenizer.prefix_ids[0])
        assert ids[:start] == asked[len(asked) - start :]
        assert ids[start : start + 2] == tokenizer.prefix_ids
        assert targets_of((ids, loss_mask, shortened)) == ids[start + 2 :] == said[: len(ids) - start - 2]
        assert start + 2 >= max_len // 2 or ids[-1] == tokenizer.eos_id


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            {"role": "system", "content": "a"},
            "message 0 has the role system, not user; the format chatglm has user and",
        ),
        ({"role": "assistant", "content": "a"}, "message 0 has the role assistant, not user"),
    ],
)
def test_a_message_that_rounds_have_no_place_for_is_refused(message, reason, tokenizer):
    with pytest.raises(BadConversation, match=reason) as refusal:
        render_examples([message, *TALK], tokenizer, 200)
    assert refusal.value.reason == "unknown role"


def test_ids_are_those_of_the_official_preprocessing_where_nothing_is_cut(data):
    tokenizer = load_tokenizer(data / "chatglm1_tiny")
    adgen, talks = json.loads((data / "chatglm1_tiny" / "expected.json").read_text())["ptuning_preprocess"]
    chats = [[(record["content"], record["summary"])] for record in adgen["records"] if record["summary"]]
    # the second record has an empty history, which the official code makes a round 0, as its chat does not
    record = talks["records"][0]
    chats.append([*record["history"], (record["prompt"], record["response"])])
    rows = [*adgen["train"]["input_ids"], talks["train"]["input_ids"][0]]
    labels = [*adgen["train"]["labels"], talks["train"]["labels"][0]]
    assert len(chats) == len(rows) == len(labels) == 4
    for chat, row, label in zip(chats, rows, labels, strict=True):
        messages = [
            message
            for question, answer in chat
            for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        ]
        example = render_examples(messages, tokenizer, 1000)[-1]
        theirs = row[: row.index(tokenizer.eos_id) + 1]
        if len(example[0]) == len(theirs):  # the second record is cut by the official code, to 64 and 62 ids
            assert example[0] == theirs
            # the official code also trains [gMASK] to be followed by <sop>
            assert [tokenizer.control_id("<sop>"), *targets_of(example)] == [i for i in label if i != -100]
        else:
            assert chat is chats[1] and len(theirs) < len(example[0])
