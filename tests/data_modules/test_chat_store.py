import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from data_modules.sources import ChatSource
from data_modules.stores.chat_store import ChatStore
from glmja.conversation.rendering import render
from glmja.twin import build as twin

GOOD = {"messages": [{"role": "user", "content": "こんにちは"}, {"role": "assistant", "content": "はい。"}]}


def chat(*contents):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]}


def write(path, records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def store_of(path, tokenizer, tmp_path, row_len=512, max_bad_share=0.01, **others):
    source = ChatSource(**{"name": "chats", "lang": "ja", "files": [str(path)]} | others)
    store = ChatStore.of(source, tokenizer, row_len, tmp_path / "cache")
    store.check_dropped(source.name, max_bad_share)
    return store


def conversations(store):
    bounds = list(zip(store.starts[:-1], store.starts[1:], strict=True))
    return [(store.tokens[a:b].tolist(), store.loss_mask[a:b].tolist()) for a, b in bounds]


def test_a_store_holds_each_conversation_as_it_is_rendered(tmp_path, tokenizer):
    path = twin.text_file("conversations")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    store = store_of(path, tokenizer, tmp_path, row_len=4096)
    assert conversations(store) == [render(record["messages"], tokenizer) for record in records]
    assert store.num_target_tokens.tolist() == [sum(mask) for _, mask in conversations(store)]
    assert store.num_dropped == store.num_shortened == 0


def test_every_kind_of_file_gives_the_same_conversations(tmp_path, tokenizer):
    records = [chat("あ", f"答え{i}") for i in range(600)]
    lines = write(tmp_path / "a.jsonl", records)
    write(tmp_path / "lines.json", records)
    (tmp_path / "array.json").write_text(json.dumps(records))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "c.parquet")
    expected = conversations(store_of(lines, tokenizer, tmp_path))
    for name in ("lines.json", "array.json", "b.jsonl.gz", "c.parquet"):
        assert conversations(store_of(tmp_path / name, tokenizer, tmp_path)) == expected


def test_a_long_conversation_loses_its_oldest_turns_and_keeps_its_system_message(tmp_path, tokenizer):
    system = {"role": "system", "content": "先生です。"}
    turns = chat(*(f"質問その{i}" if i % 2 == 0 else f"答えその{i}" for i in range(20)))["messages"]
    last_two = render([system, *turns[-4:]], tokenizer)
    path = write(tmp_path / "a.jsonl", [{"messages": [system, *turns]}])
    store = store_of(path, tokenizer, tmp_path, row_len=len(last_two[0]) + 2)
    assert conversations(store) == [last_two]
    assert store.num_shortened == 1


def test_a_record_without_target_tokens_is_dropped_counted_and_named(tmp_path, tokenizer, caplog):
    long = {"messages": [{"role": "system", "content": "あ" * 900}, *GOOD["messages"]]}
    bad = [chat("あ", " "), long, {"messages": [{"role": "user", "content": "あ"}]}, {"x": 1}]
    path = write(tmp_path / "a.jsonl", [GOOD] * 20 + bad + [chat("あ", "い" * 900), chat("あ", "")])
    store = store_of(path, tokenizer, tmp_path, row_len=64, max_bad_share=0.5)
    assert store.report.dropped == {
        "empty answer": 2, "no assistant text within the first row_len tokens": 1, "no answer": 1, "missing key": 1,
    }  # fmt: skip
    assert (len(store.lengths), store.num_dropped, store.num_shortened) == (21, 5, 1)
    assert (store.num_target_tokens > 0).all()
    assert f"2 × empty answer ({path}:21; {path}:26)" in caplog.text


def test_the_loss_mask_of_a_store_is_that_of_the_messages(tmp_path, tokenizer):
    messages = chat("一", "悪い", "二", "良い")["messages"]
    excluded = [*messages[:1], messages[1] | {"loss": False}, *messages[2:]]
    plain = store_of(write(tmp_path / "a.jsonl", [{"messages": messages}]), tokenizer, tmp_path)
    assert conversations(plain) == [render(messages, tokenizer)]
    for record, learn in ((excluded, "all"), (excluded, "last"), (messages, "last")):
        path = write(tmp_path / "a.jsonl", [{"messages": record}])
        store = store_of(path, tokenizer, tmp_path, learn=learn)
        assert conversations(store) == [render(excluded, tokenizer)]
        assert store.num_target_tokens.tolist() == [len(tokenizer.encode("良い")) + len(tokenizer.encode("\n")) + 1]


def test_columns_and_learn_are_part_of_a_stores_key(tmp_path, tokenizer):
    record = {"prompt": "一", "response": "答え", "better": "良い答え"}
    path, settings = write(tmp_path / "a.jsonl", [record]), {"format": "prompt_response"}
    stores = [
        store_of(path, tokenizer, tmp_path, **settings, **more)
        for more in ({}, {"columns": {"response": "better"}}, {"learn": "last"}, {"columns": {"prompt": "prompt"}})
    ]
    assert len({store.key for store in stores}) == 4
    assert [tokenizer.decode(store.tokens.tolist()).split("\n")[-1].strip() for store in stores] == [
        "答え", "良い答え", "答え", "答え",
    ]  # fmt: skip


def test_keys_without_effect_are_named_once_with_their_share(tmp_path, tokenizer, caplog):
    records = [GOOD | {"lang": "ja"}] * 3 + [GOOD | {"id": 1}]
    path = write(tmp_path / "a.jsonl", records)
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        store_of(path, tokenizer, tmp_path)
        assert [record.getMessage() for record in caplog.records] == [
            "source 'chats': keys without effect: lang (75 % of the records), id (25 % of the records)"
        ]


def test_a_reason_is_printed_in_full(tmp_path, tokenizer):
    record = {"conversations": [{"from": "Human", "value": "質問"}, {"from": "GPT", "value": "答え"}]}
    path = write(tmp_path / "a.jsonl", [record])
    with pytest.raises(ValueError, match=r"is 'Human'; known are human, user, .*function_call$"):
        store_of(path, tokenizer, tmp_path, format="sharegpt")


def test_too_many_bad_conversations_end_the_run(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", [GOOD] * 9 + [chat("あ", "")])
    message = r"no target tokens in 1 of 10 records; repair, or raise `max_bad_share` \(0.05\): .*a.jsonl:10: empty an"
    for _ in range(2):  # the second time from the cache
        with pytest.raises(ValueError, match=message):
            store_of(path, tokenizer, tmp_path, max_bad_share=0.05)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"source 'chats' has no conversation with target tokens: no records in .*a\.jsonl"),
        (b'{"messages": []}\n', r"has no conversation with target tokens: .*a.jsonl:1: no answer: 0 messages"),
        (b"{}\n", r".*a.jsonl:1: missing key: the record has no 'messages'"),
        (b"\n{", r"a.jsonl:2: not JSON \(.* at column 2\)"),
        ("\n\n日本".encode("euc-jp"), r"a.jsonl:3: not UTF-8 \(byte 0xc6 at column 1\); convert the file"),
    ],
)
def test_a_damaged_file_ends_the_run(tmp_path, tokenizer, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        store_of(path, tokenizer, tmp_path, max_bad_share=1)
    assert not list((tmp_path / "cache").glob("[0-9a-f]*"))


def test_damage_within_a_compressed_file_ends_the_run(tmp_path, tokenizer):
    content = bytearray(
        gzip.compress(write(tmp_path / "a.jsonl", [chat("あ", f"答え{i}") for i in range(900)]).read_bytes())
    )
    content[1000:1100] = bytes(100)
    (tmp_path / "b.jsonl.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"b\.jsonl\.gz(:\d+)?: (damaged|not UTF-8|not JSON)"):
        store_of(tmp_path / "b.jsonl.gz", tokenizer, tmp_path)


@pytest.mark.parametrize("record", ["[" * 100_000, '{"messages": ' + "1" * 5000 + "}"])
def test_json_that_python_cannot_read_is_named(tmp_path, tokenizer, record):
    (tmp_path / "a.jsonl").write_text(record)
    with pytest.raises(ValueError, match=r"a.jsonl:1: not JSON that Python can read"):
        store_of(tmp_path / "a.jsonl", tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", b"x", r"a.jsonl.gz:1: damaged gzip file \(Not a gzipped file"),
        ("a.parquet", b"x", r"a.parquet: not a parquet file \("),
        ("a.json", b"[1,", r"a.json:1: not JSON \(Expecting '\]' at column 4"),
        ("a.json", b"[" * 100_000, r"a.json:1: not JSON that Python can read \(maximum recursion depth"),
    ],
)
def test_a_file_that_is_not_what_its_suffix_says_ends_the_run(tmp_path, tokenizer, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        store_of(tmp_path / name, tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"files": []}, "source 'chats' has neither; set either files or hub"),
        ({"weight": 0.0}, "weight of source 'chats' is 0.0; set a positive number"),
        (
            {"format": "chatml"},
            "has format 'chatml'; known are messages, sharegpt, chatglm3, alpaca, prompt_response, adgen",
        ),
        ({"learn": "first"}, "source 'chats' has learn 'first'; all or last"),
        (
            {"columns": {"prompt": "q"}},
            "columns of source 'chats': 'prompt' is no key of the format messages, which has",
        ),
        ({"files": ["gone.jsonl"]}, "no such file: gone.jsonl"),
        (
            {"files": [__file__]},
            r"unknown kind of file; known are .jsonl, .json, .csv \(also with",
        ),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(tokenizer, tmp_path, values, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        store_of("a.jsonl", tokenizer, tmp_path, **values)
