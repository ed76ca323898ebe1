import pytest

from data_modules.sources import ChatSource, TextSource
from data_modules.stores.chat_store import ChatStore
from data_modules.stores.store import REPORT, TOKENS
from data_modules.stores.token_store import TokenStore
from glmja.twin import build as twin


@pytest.fixture(params=["documents", "conversations"])
def store(request, tokenizer, tmp_path):
    if request.param == "documents":
        return TokenStore.of(TextSource("a", "ja", [str(twin.text_file("ja"))]), tokenizer, tmp_path)
    return ChatStore.of(ChatSource("a", "all", [str(twin.text_file("conversations"))]), tokenizer, 512, tmp_path)


@pytest.mark.parametrize("verify", [True, False])
def test_a_store_is_opened_by_its_key_without_its_sources(store, tmp_path, verify):
    again = type(store).open(tmp_path, store.key, verify)
    assert again.folder == store.folder
    assert again.tokens.tobytes() == store.tokens.tobytes()
    assert again.lengths.tolist() == store.lengths.tolist()


def test_without_verification_no_file_is_hashed(store, tmp_path, monkeypatch):
    monkeypatch.setattr("glmja.files.checksums.sha256_of_file", lambda _: pytest.fail("hashed"))
    type(store).open(tmp_path, store.key, verify=False)


def test_a_key_without_a_store_is_refused(store, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenized source .*/gone; every machine of a run needs it in its"):
        type(store).open(tmp_path, "gone")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / TOKENS).write_bytes(bytes(8)), "'tokens.bin' does not match its checksum"),
        (lambda folder: (folder / REPORT).unlink(), "'report.json' does not match its checksum"),
        (lambda folder: (folder / "more").touch(), "'more' does not match its checksum"),
        (lambda folder: (folder / "seal.json").unlink(), "no seal.json in .*"),
    ],
)
def test_a_damaged_store_is_refused(store, tmp_path, damage, message):
    damage(store.folder)
    with pytest.raises(ValueError, match=rf"is damaged \({message}\); remove it, and it will be created again"):
        type(store).open(tmp_path, store.key)
