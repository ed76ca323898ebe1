import gzip
import json

import pytest

from glmja.evaluation.references import read_references

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
    found = read_references([write(tmp_path / "all.jsonl", *RECORDS.values())], 100)
    assert [one.answer for one in found] == ["一条裤子。", "動物です。", "您好。", "Hello."]
    assert [one.prompt[-1]["content"] for one in found] == ["类型#裤", "説明して\nラクダ", "你好", "Hi"]


def test_the_last_answer_is_the_reference_and_later_messages_are_dropped(tmp_path):
    turns = [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("user", "5")]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (found,) = read_references([write(tmp_path / "a.jsonl", record)], 5)
    assert [message["content"] for message in found.prompt] == ["1", "2", "3"]
    assert found.answer == "4"


def test_only_the_first_references_are_read_from_all_files(tmp_path):
    paths = [write(tmp_path / f"{i}.jsonl", *[RECORDS["adgen"]] * 3) for i in range(2)]
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(paths[0].read_bytes()))
    assert [len(read_references([*paths, packed], count)) for count in (2, 5, 100)] == [2, 5, 9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"no conversation in .*a\.jsonl"),
        ("\n  \n", r"no conversation in .*a\.jsonl"),
        ("[1]", r"a\.jsonl:1: a conversation needs one of the keys messages, .*found \[\]"),
        ('{"text": "x"}', r"a\.jsonl:1: a conversation needs one of the keys .*found \['text'\]"),
        ("{", r"a\.jsonl:1: not JSON"),
        ('{"content": "a", "summary": "b"}\n{"content": "a", "summary": " "}', r"a\.jsonl:2: empty answer: message 1"),
        ('{"messages": [{"role": "user", "content": "x"}]}', r"a\.jsonl:1: no answer"),
    ],
)
def test_a_record_without_a_reference_is_rejected_with_its_place(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_references([tmp_path / "a.jsonl"], 10)


def test_other_files_are_rejected(tmp_path):
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.txt: conversations with reference answers must be \.jsonl"):
        read_references([tmp_path / "a.txt"], 10)
    (tmp_path / "b.jsonl").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(ValueError, match=r"b\.jsonl:1: not UTF-8"):
        read_references([tmp_path / "b.jsonl"], 10)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_references([tmp_path / "c.jsonl"], 10)
