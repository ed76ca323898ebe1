import json

import pytest

from data_modules import token_store
from data_modules.sources import TextSource
from data_modules.token_store import TokenStore
from glmja import twin


def source(path, **others):
    return TextSource(**{"name": "ja", "lang": "ja", "files": [str(path)]} | others)


def test_a_store_holds_each_document_with_one_eos_at_its_end(tmp_path, tokenizer, texts):
    store = TokenStore.of(source(twin.text_file("ja")), tokenizer, tmp_path)
    documents = [store.tokens[a:b].tolist() for a, b in zip(store.starts[:-1], store.starts[1:], strict=True)]
    assert documents == [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts["ja"]]
    assert sum(store.lengths) == len(store.tokens)
    assert int((store.tokens == tokenizer.eos_id).sum()) == len(texts["ja"])


def test_a_store_is_made_once(tmp_path, tokenizer, monkeypatch):
    first = TokenStore.of(source(twin.text_file("ja")), tokenizer, tmp_path)
    monkeypatch.setattr("data_modules.token_store._write", None)
    again = TokenStore.of(source(twin.text_file("ja"), name="other"), tokenizer, tmp_path)
    assert (again.tokens == first.tokens).all()


def test_another_text_or_tokenizer_makes_another_store(tmp_path, tokenizer, base_tokenizer):
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
        patch.setattr("data_modules.token_store.np.save", killed)
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
