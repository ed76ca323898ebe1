import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as spm

from data_modules.sources import TextSource
from data_modules.stores import document_encoder, token_store
from data_modules.stores.token_store import TokenStore
from glmja.families.recognition import load_tokenizer
from glmja.files.chunks import Chunk
from glmja.files.documents import documents_of, read_document_chunks
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import Piece
from glmja.twin import build as twin
from tests.support.strategies import TEXT, TEXT_WITH_CONTROL_NAMES


def source(path, **others):
    return TextSource(**{"name": "ja", "lang": "ja", "files": [str(path)]} | others)


def test_a_store_holds_each_document_with_one_eos_at_its_end(tmp_path, tokenizer, texts):
    store = TokenStore.of(source(twin.text_file("ja")), tokenizer, tmp_path)
    documents = [store.tokens[a:b].tolist() for a, b in zip(store.starts[:-1], store.starts[1:], strict=True)]
    assert documents == [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts["ja"]]
    assert sum(store.lengths) == len(store.tokens)
    assert int((store.tokens == tokenizer.eos_id).sum()) == len(texts["ja"])


def test_a_store_is_created_once(tmp_path, tokenizer, monkeypatch):
    first = TokenStore.of(source(twin.text_file("ja")), tokenizer, tmp_path)
    monkeypatch.setattr(token_store, "_write", lambda *_: pytest.fail("created again"))
    again = TokenStore.of(source(twin.text_file("ja"), name="other"), tokenizer, tmp_path)
    assert (again.tokens == first.tokens).all()


def test_another_text_or_tokenizer_gives_another_store(tmp_path, tokenizer, base_tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "日本語", "body": "x"}))
    stores = [
        TokenStore.of(source(path), tokenizer, tmp_path / "cache"),
        TokenStore.of(source(path), base_tokenizer, tmp_path / "cache"),
        TokenStore.of(source(path, text_key="body"), tokenizer, tmp_path / "cache"),
    ]
    path.write_text(json.dumps({"text": "にほんご"}))
    stores.append(TokenStore.of(source(path), tokenizer, tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert len({tuple(store.tokens.tolist()) for store in stores}) == 4


def test_a_store_that_was_not_finished_is_never_read(tmp_path, tokenizer, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            TokenStore.of(source(twin.text_file("zh")), tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(TokenStore.of(source(twin.text_file("zh")), tokenizer, tmp_path).lengths) == 27


def test_a_store_that_another_process_finished_first_is_read(tmp_path, tokenizer, monkeypatch):
    write = token_store._write

    def slow(*args):
        monkeypatch.setattr(token_store, "_write", write)
        TokenStore.of(source(twin.text_file("zh")), tokenizer, tmp_path)
        write(*args)

    monkeypatch.setattr(token_store, "_write", slow)
    assert len(TokenStore.of(source(twin.text_file("zh")), tokenizer, tmp_path).lengths) == 27
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("num_workers", [0, 2, 3])
def test_a_store_is_the_same_whatever_the_number_of_workers(tmp_path, tokenizer, texts, num_workers, monkeypatch):
    for module in ("chunks", "records"):
        monkeypatch.setattr(f"glmja.files.{module}.CHUNK_BYTES", 300)
    files = [str(twin.text_file(language)) for language in ("ja", "zh")]
    store = TokenStore.of(TextSource("a", "ja", files), tokenizer, tmp_path, num_workers)
    expected = [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts["ja"] + texts["zh"]]
    assert store.tokens.tobytes() == np.concatenate(expected).astype(np.uint32).tobytes()
    assert store.starts.dtype == np.int64
    assert store.lengths.tolist() == [len(ids) for ids in expected]


def encoded(tokenizer, texts):
    chunk = Chunk("a", 1, [{"text": text} for text in texts], "row", 0)
    part = document_encoder.DocumentEncoder(tokenizer, "text")(chunk)
    return [ids.tolist() for ids in np.split(part.ids, np.cumsum(part.lengths)[:-1])]


@pytest.mark.parametrize("part_len", [1, 3, 256])
@given(st.lists(st.one_of(TEXT, TEXT_WITH_CONTROL_NAMES, st.text("a▁ b", max_size=9)), min_size=1, max_size=3))
def test_encoding_in_parts_changes_no_id(tokenizer, part_len, texts):
    texts = [text for text in texts if text.strip()] or ["a"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_encoder, "_PART_LEN", part_len)
        assert encoded(tokenizer, texts) == [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts]


@pytest.mark.parametrize("part_len", [1, 7, 256])
def test_encoding_real_text_in_parts_changes_no_id(data, part_len, monkeypatch):
    monkeypatch.setattr(document_encoder, "_PART_LEN", part_len)
    tokenizer = load_tokenizer(data / "chatglm3")
    for language in ("ja", "zh", "en"):
        texts = list(documents_of(next(read_document_chunks([data / "text" / f"{language}.jsonl.gz"]))))
        assert encoded(tokenizer, texts) == [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts]


def without_bytes(proto):
    proto.trainer_spec.byte_fallback = False
    for piece in proto.pieces:
        if piece.type == Piece.BYTE:
            piece.type = Piece.NORMAL


@pytest.mark.parametrize(
    "change",
    [
        lambda proto: setattr(proto.normalizer_spec, "remove_extra_whitespaces", True),
        lambda proto: setattr(proto.normalizer_spec, "escape_whitespaces", False),
        lambda proto: setattr(proto.normalizer_spec, "add_dummy_prefix", False),
        without_bytes,
        lambda proto: setattr(proto.trainer_spec, "treat_whitespace_as_suffix", True),
    ],
)
def test_a_vocabulary_that_sees_across_cuts_is_not_cut(tokenizer, change, monkeypatch):
    monkeypatch.setattr(document_encoder, "_PART_LEN", 1)
    proto = spm.ModelProto()
    proto.CopyFrom(tokenizer.proto)
    change(proto)
    changed = GLMTokenizer(proto)
    texts = [" 日本  語 の😀😀𠮷𠮷 a  b ", "東京 図書館で"]
    assert encoded(changed, texts) == [[*changed.encode(text), changed.eos_id] for text in texts]


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": ', r"^.*a.jsonl:2: not JSON"),
        ('{"text": "a"}\n\n{"body": "b"}', r"^.*a.jsonl:3: no key 'text' \(found: \['body'\]\)"),
        ('{"text": "a\\ud800"}', r"^.*a.jsonl:1: character 2 is a lone surrogate"),
        ("\n".join(['{"text": "a"}'] * 99 + ["[]", "{"]), r"^.*a.jsonl:100: no key 'text' \(found: list\)"),
        ('{"text": " "}', r"^no text in .*a.jsonl"),
        ("", r"^no text in .*a.jsonl"),
    ],
)
def test_bad_text_is_named_with_its_line_and_leaves_no_store(
    tmp_path, tokenizer, num_workers, content, message, monkeypatch
):
    for module in ("chunks", "records"):
        monkeypatch.setattr(f"glmja.files.{module}.CHUNK_BYTES", 30)
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        TokenStore.of(source(path), tokenizer, tmp_path / "cache", num_workers)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_is_not_utf8_or_missing_is_named(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_bytes(b"fine\n\xff")
    with pytest.raises(ValueError, match=r"a.txt:2: not UTF-8 \(byte 0xff at column 1\)"):
        TokenStore.of(source(tmp_path / "a.txt"), tokenizer, tmp_path / "cache", 2)
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone.txt"):
        TokenStore.of(source(tmp_path / "gone.txt"), tokenizer, tmp_path / "cache", 2)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder of data files, loaded without a network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "hub"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"body": ["日本語", " ", "図書館です。"]}), folder / "train.parquet")
    return folder


def hub_source(hub, **others):
    return TextSource(**{"name": "hub", "lang": "ja", "hub": str(hub), "text_key": "body"} | others)


def test_a_dataset_gives_the_same_store_as_files(tmp_path, tokenizer, hub):
    store = TokenStore.of(hub_source(hub), tokenizer, tmp_path / "cache", 2)
    expected = [[*tokenizer.encode(text), tokenizer.eos_id] for text in ("日本語", "図書館です。")]
    assert store.tokens.tolist() == [*expected[0], *expected[1]]
    assert store.lengths.tolist() == [len(ids) for ids in expected]


def test_a_dataset_has_a_store_for_each_content_and_part(tmp_path, tokenizer, hub):
    cache = tmp_path / "cache"
    whole = TokenStore.of(hub_source(hub), tokenizer, cache)
    assert TokenStore.of(hub_source(hub, name="again"), tokenizer, cache).tokens.tolist() == whole.tokens.tolist()
    assert len(list(cache.iterdir())) == 1
    part = TokenStore.of(hub_source(hub, split="train[:1]"), tokenizer, cache)
    assert part.tokens.tolist() == whole.tokens[: part.starts[-1]].tolist()
    pyarrow.parquet.write_table(pyarrow.table({"body": ["別の文。"]}), hub / "train.parquet")
    other = TokenStore.of(hub_source(hub), tokenizer, cache)
    assert other.tokens.tolist() == [*tokenizer.encode("別の文。"), tokenizer.eos_id]
    assert len(list(cache.iterdir())) == 3


def test_a_dataset_without_text_or_column_is_named(tmp_path, tokenizer, hub):
    with pytest.raises(ValueError, match=r"^no text in dataset '.*hub', split 'train\[1:2\]'$"):
        TokenStore.of(hub_source(hub, split="train[1:2]"), tokenizer, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"dataset '.*hub': no column 'text' \(found: \['body'\]\)"):
        TokenStore.of(hub_source(hub, text_key="text"), tokenizer, tmp_path / "cache")


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"files": []}, r"source 'ja' has neither; set either files or hub"),
        ({"hub": "b"}, r"source 'ja' has files \['a'\] and hub 'b'; set either files or hub"),
        ({"documents": "book"}, r"documents of source 'ja' is 'book'; set line or file"),
        ({"weight": 0.0}, r"weight of source 'ja' is 0.0; set a positive number, or leave it out"),
        ({"weight": -1.0}, r"weight of source 'ja' is -1.0"),
        ({"weight": float("inf")}, r"weight of source 'ja' is inf"),
        ({"weight": float("nan")}, r"weight of source 'ja' is nan"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(others, message):
    with pytest.raises(ValueError, match=message):
        source("a", **others)


def test_a_source_has_files_or_a_dataset(hub):
    assert source("a", weight=0.5, val_files=["b"]).files == ["a"]
    assert hub_source(hub).files == []


def part_files(folder, texts):
    """Writes the Japanese texts to three files, some of them twice and with blank ones."""
    lines = [json.dumps({"text": text}) + "\n" for text in [*texts["ja"], " ", *texts["ja"][:5]]]
    paths = [folder / f"{i}.jsonl" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_text("".join(lines[i::3] + lines[:2]))
    return paths


def test_stores_of_single_files_are_joined_to_the_store_of_a_source(tmp_path, tokenizer, texts, monkeypatch):
    paths = part_files(tmp_path, texts)
    files = [str(path) for path in paths]
    whole = TokenStore.of(TextSource("ja", "ja", files), tokenizer, tmp_path / "direct")
    for path in reversed(paths):
        TokenStore.of(source(path), tokenizer, tmp_path / "parts")
    monkeypatch.setattr(token_store, "_write", lambda *_: pytest.fail("tokenized again"))
    joined = TokenStore.of(TextSource("ja", "ja", files), tokenizer, tmp_path / "parts")
    assert joined.key == whole.key and joined.num_repeated == whole.num_repeated > 5 and joined.num_blank == 1
    ours, theirs = ({path.name: path.read_bytes() for path in store.folder.iterdir()} for store in (joined, whole))
    assert len(ours) == 5
    assert ours == theirs


def test_a_file_whose_part_is_missing_lets_all_be_tokenized(tmp_path, tokenizer, texts):
    paths = part_files(tmp_path, texts)
    TokenStore.of(source(paths[0]), tokenizer, tmp_path / "cache")
    store = TokenStore.of(TextSource("ja", "ja", [str(path) for path in paths]), tokenizer, tmp_path / "cache")
    assert len(store.lengths) == len(set(texts["ja"]))


def test_a_damaged_part_is_refused(tmp_path, tokenizer, texts):
    paths = part_files(tmp_path, texts)
    for path in paths:
        part = TokenStore.of(source(path), tokenizer, tmp_path / "cache")
    with (part.folder / "tokens.bin").open("r+b") as file:
        file.write(b"\1\2")
    with pytest.raises(ValueError, match=f"{part.folder} is damaged"):
        TokenStore.of(TextSource("ja", "ja", [str(path) for path in paths]), tokenizer, tmp_path / "cache")
