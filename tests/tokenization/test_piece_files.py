import gzip
import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from glmja.tokenization import huggingface
from glmja.tokenization.piece_files import read_pieces, read_words

LINES = ["こんにちは世界。", "これは日本語の文です。", "こんにちは、こんばんは。", "hello world"] * 5


def train(path, model, trainer, pre_tokenizer):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.save(str(path))
    return tokenizer


def test_a_tokenizer_json_gives_the_pieces_of_its_model_in_the_same_order(tokenizer, tmp_path):
    huggingface.save(tokenizer, tmp_path)
    by_rank = read_pieces(tmp_path / "tokenizer.model")
    from_json = read_pieces(tmp_path / "tokenizer.json")
    new = {tokenizer.piece(i) for i in tokenizer.new_ids}
    assert set(from_json) == set(by_rank)
    assert [p for p in from_json if p in new] == [p for p in by_rank if p in new]


def test_pieces_written_as_bytes_are_read_as_text(tmp_path):
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    train(tmp_path / "tokenizer.json", models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False))
    pieces = read_pieces(tmp_path / "tokenizer.json")
    assert {"こんにちは", "▁world"} <= set(pieces)
    assert "<s>" not in pieces and not any("\ufffd" in piece for piece in pieces)


def test_a_unigram_vocabulary_is_read_by_its_scores(tmp_path):
    train(tmp_path / "u.json", models.Unigram(), trainers.UnigramTrainer(vocab_size=60), pre_tokenizers.Metaspace())
    pieces = read_pieces(tmp_path / "u.json")
    scores = dict(json.loads((tmp_path / "u.json").read_text())["model"]["vocab"])
    assert [scores[piece] for piece in pieces] == sorted(scores.values(), reverse=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "its model is WordPiece; only BPE and Unigram"),
        ({"model": {"type": "BPE", "vocab": {"a": "x"}}}, "its model is BPE; only BPE and Unigram"),
        ({"model": {"type": "Unigram", "vocab": [["a"]]}}, "its model is Unigram; only"),
        ({"model": 3}, "its model is none; only"),
        ({}, "its model is none; only BPE and Unigram vocabularies have pieces to take"),
    ],
)
def test_a_vocabulary_of_another_kind_is_refused(tmp_path, content, message):
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_pieces(tmp_path / "t.json")


def test_words_are_read_from_text_files_as_others_are(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("\ufeff東京\r\n\n  は \n".encode()))
    assert read_pieces(tmp_path / "a.txt.gz") == ["東京", "は"]
    (tmp_path / "b.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"b.txt: no words; write one a line"):
        read_words(tmp_path / "b.txt")
    (tmp_path / "c.txt").write_bytes("は\n東京\n".encode("cp932"))
    with pytest.raises(ValueError, match=r"c.txt:1: not UTF-8"):
        read_words(tmp_path / "c.txt")
