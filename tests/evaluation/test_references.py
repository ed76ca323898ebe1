import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from glmja.conversation.formats import BadConversation
from glmja.conversation.rendering import render_prompt
from glmja.evaluation.references import read_references, shorten_to_fit, to_reference
from glmja.modeling.model_folder import ModelFolder

RECORDS = {
    "adgen": {"content": "类型#裤", "summary": "一条裤子。"},
    "alpaca": {"instruction": "説明して", "input": "ラクダ", "output": "動物です。"},
    "messages": {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好。"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
}


def write(path, *records):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


def test_the_format_is_detected_by_the_keys(tmp_path):
    found = read_references([write(tmp_path / "all.jsonl", *RECORDS.values())], 100).kept
    assert [one.answers for one in found] == [["一条裤子。"], ["動物です。"], ["您好。"], ["Hello."]]
    assert [one.prompt[-1]["content"] for one in found] == ["类型#裤", "説明して\nラクダ", "你好", "Hi"]
    assert found[1].place == f"{tmp_path / 'all.jsonl'}:2"


def test_the_last_answer_is_the_reference_and_later_messages_are_dropped(tmp_path):
    turns = [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("user", "5")]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (found,) = read_references([write(tmp_path / "a.jsonl", record)], 5).kept
    assert [message["content"] for message in found.prompt] == ["1", "2", "3"]
    assert found.answers == ["4"]


def test_only_the_first_references_are_read_from_all_files(tmp_path):
    paths = [write(tmp_path / f"{i}.jsonl", *[RECORDS["adgen"]] * 3) for i in range(2)]
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(paths[0].read_bytes()))
    assert [len(read_references([*paths, packed], count).kept) for count in (2, 5, 100)] == [2, 5, 9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"no conversation in .*a\.jsonl"),
        ("\n  \n", r"no conversation in .*a\.jsonl"),
        ("[1]", r"a\.jsonl: row 1: missing key: a conversation needs one of the keys messages, .*found \[\]"),
        ('{"text": "x"}', r"a\.jsonl:1: missing key: a conversation needs one of the keys .*found \['text'\]"),
        ("{", r"a\.jsonl:1: not JSON"),
        ('{"content": "a", "summary": " "}', r"a\.jsonl:1: empty answer: message 1"),
        ('{"messages": [{"role": "user", "content": "x"}]}', r"a\.jsonl:1: no answer"),
        (
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": "x"},
                        {"role": "assistant", "content": "a"},
                        {"role": "user", "content": "x"},
                        {"role": "assistant", "content": "b", "weight": 0},
                    ]
                }
            ),
            r"a\.jsonl:1: nothing to learn: the last answer is excluded from training, so it is no reference",
        ),
    ],
)
def test_files_without_a_reference_are_rejected_with_their_first_place(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_references([tmp_path / "a.jsonl"], 10).check("ja", 1.0)


USER = {"role": "user", "content": "東京の天気は？"}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "東京"}'}}


@pytest.mark.parametrize(
    ("record", "prompt", "answers"),
    [
        ({"prompt": "首都は", "completion": "東京"}, "首都は", ["東京"]),
        ({"prompt": "首都は", "completion": ["東京", "東京都"]}, "首都は", ["東京", "東京都"]),
        ({"prompt": [USER], "completion": [{"role": "assistant", "content": "晴れ"}]}, "東京の天気は？", ["晴れ"]),
        ({"prompt": [USER], "completion": "晴れ"}, "東京の天気は？", ["晴れ"]),
        ({"question": "首都は", "context": "東京は日本の首都。", "answers": {"text": ["東京", "東京都"]}},
         "東京は日本の首都。\n\n首都は", ["東京", "東京都"]),
        ({"question": "首都は", "answers": [{"text": "東京", "answer_start": 3}]}, "首都は", ["東京"]),
        ({"question": "首都は", "context": None, "answer": "東京"}, "首都は", ["東京"]),
        ({"ID": "1", "input": "首都は", "output": "東京"}, "首都は", ["東京"]),
        ({"messages": [USER], "references": ["晴れ", "雨", "晴れ"]}, "東京の天気は？", ["晴れ", "雨"]),
        ({"messages": [USER, {"role": "assistant", "content": "雪"}], "references": "雨"}, "東京の天気は？",
         ["雪", "雨"]),
        ({"instruction": "首都は", "output": "東京", "references": ["東京都"]}, "首都は", ["東京", "東京都"]),
    ],
)  # fmt: skip
def test_every_shape_of_a_question_with_answers_is_a_reference(record, prompt, answers):
    found = to_reference(record)
    assert [found.prompt[-1]["content"], found.answers, found.tool] == [prompt, answers, ""]


def test_a_call_of_a_tool_keeps_its_name():
    record = {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}], "tools": [{"name": "x"}]}
    found = to_reference(record)
    assert found.answers == ["get_weather\n```python\ntool_call(city='東京')\n```"] and found.tool == "get_weather"
    given = {"role": "assistant", "metadata": "get_weather", "content": "x"}
    assert to_reference({"messages": [USER, given]}).answers == ["get_weather\nx"]
    assert to_reference({"messages": [USER, given], "references": ["晴れ"]}).tool == ""


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "q", "answers": {"text": []}}, "no answer: 'answers' is empty"),
        ({"question": "q", "answer": " "}, "empty answer: 'answer' has no text"),
        (
            {"question": "q", "answer": 3},
            "wrong type: 'answer' is not a text, a list of texts, or an object with `text`",
        ),
        ({"question": 3, "answer": "a"}, "wrong type: 'question' and the context must be texts"),
        ({"question": "q", "context": 3, "answer": "a"}, "wrong type: 'question' and the context must be texts"),
        ({"messages": [USER], "references": [None]}, "wrong type: 'references' is not a text"),
        ({"prompt": "q", "completion": "\ud800"}, "lone surrogate"),
        ({"prompt": "\ud800", "completion": "a"}, "lone surrogate"),
        ({"messages": [], "references": ["a"]}, "turn order: message 0 is assistant after nothing"),
        ({"answers": ["a"]}, r"missing key: .* question with answers, .*found \['answers'\]"),
    ],
)
def test_the_error_for_a_record_without_an_answer_names_the_reason(record, message):
    with pytest.raises(BadConversation, match=message):
        to_reference(record)


def test_some_bad_records_are_counted_and_named_and_more_are_rejected(tmp_path):
    good, empty = RECORDS["adgen"], {"content": "a", "summary": ""}
    path = write(tmp_path / "a.jsonl", good, empty, good, good, {"text": "x"}, empty)
    found = read_references([path], 100)
    assert len(found.kept) == 3
    assert found.left_out == {"empty answer": [f"{path}:2", f"{path}:6"], "missing key": [f"{path}:5"]}
    assert found.notes()[0] == f"2 left out: empty answer ({path}:2, {path}:6)"
    found.check("zh", 0.5)
    with pytest.raises(
        ValueError,
        match=r"`generate` zh: 3 of 6 records cannot be used; repair them, or raise `max_bad_share` \(0\.01\): "
        r"\S+a\.jsonl:2: empty answer: message 1",
    ):
        found.check("zh", 0.01)


def test_one_bad_record_stops_nothing_unless_none_is_allowed(tmp_path):
    found = read_references([write(tmp_path / "a.jsonl", RECORDS["adgen"], {"content": "a", "summary": ""})], 9)
    found.check("zh", 0.01)
    with pytest.raises(ValueError, match="1 of 2 records cannot be used"):
        found.check("zh", 0)


def test_many_places_are_cut_but_counted(tmp_path):
    found = read_references([write(tmp_path / "a.jsonl", *[{"x": 1}] * 5)], 9)
    assert found.notes()[0].startswith("5 left out: missing key (") and found.notes()[0].endswith("a.jsonl:3, …)")
    with pytest.raises(ValueError, match=r"none of 5 records can be used: \S+a\.jsonl:1: missing key"):
        found.check("ja", 1.0)


def test_a_table_of_questions_is_read(tmp_path):
    rows = [{"question": "首都は", "context": "日本", "answers": {"text": ["東京"], "answer_start": [0]}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "squad.parquet")
    (found,) = read_references([tmp_path / "squad.parquet"], 9).kept
    assert found.answers == ["東京"]


def test_long_prompts_lose_their_oldest_turns_and_too_long_ones_are_counted(tmp_path, zero_dir, base_dir):
    models = [ModelFolder.open(folder) for folder in (base_dir, zero_dir)]
    room = min(model.max_positions for model in models)
    long = "日本の首都は" * room
    turns = [("user", long), ("assistant", "1"), ("user", "2"), ("assistant", "3")]
    messages = [{"role": role, "content": content} for role, content in turns]
    path = write(tmp_path / "a.jsonl", {"messages": messages}, {"messages": messages[:2]}, RECORDS["messages"])
    found = shorten_to_fit(read_references([path], 9), "ja", models, 8)
    assert [one.prompt for one in found.kept] == [messages[2:3], RECORDS["messages"]["messages"][:1]]
    assert found.shortened == 1 and found.left_out == {"too long": [f"{path}:2"]}
    assert found.notes() == [f"1 left out: too long ({path}:2)", "1 without their oldest turns, to fit"]
    for model in models:
        assert all(len(render_prompt(one.prompt, model.tokenizer)) + 8 <= room for one in found.kept)
    with pytest.raises(
        ValueError,
        match=r"none of 3 records can be used: \S+a\.jsonl:1: `generate` ja: conversation 1 has \d+ tokens; with "
        r"`max_new_tokens` \(\d+\) that exceeds the \d+ positions of ",
    ):
        shorten_to_fit(read_references([path], 9), "ja", models, room).check("ja", 1.0)


def test_other_files_are_rejected(tmp_path):
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.txt: unknown kind of file \(text\); known are \.jsonl"):
        read_references([tmp_path / "a.txt"], 10)
    (tmp_path / "b.jsonl").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(ValueError, match=r"b\.jsonl:1: not UTF-8"):
        read_references([tmp_path / "b.jsonl"], 10)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_references([tmp_path / "c.jsonl"], 10)
