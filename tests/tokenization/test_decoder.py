import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from glmja.tokenization import huggingface
from glmja.tokenization.decoder import byte_names
from glmja.tokenization.vocabulary import Piece
from tests.support.strategies import TEXT

# spelled by bytes, and by pieces that look like the names of bytes
HARD = st.lists(st.sampled_from("😀𠮟𩸽𠮷é¡ÿĀŃãð\u3000\xada <0xE3>\n日す"), max_size=12).map("".join)


@pytest.fixture(scope="module")
def fast(tokenizer_dir):
    return AutoTokenizer.from_pretrained(tokenizer_dir)


@pytest.fixture(scope="module")
def backend(tokenizer_dir):
    return huggingface.load_backend(tokenizer_dir)


def as_bytes(piece):
    if piece.type == Piece.BYTE:
        return bytes.fromhex(piece.piece[3:5])
    return b"" if piece.type == Piece.CONTROL else piece.piece.replace("▁", " ").encode()


def expected(tokenizer, ids):
    """The text of the bytes of all pieces, with a replacement character where they are no character."""
    text = b"".join(as_bytes(tokenizer.proto.pieces[i]) for i in ids).decode("utf-8", "replace")
    return text.removeprefix(" ")


@settings(max_examples=300)
@given(text=st.one_of(TEXT, HARD), start=st.integers(0, 5), end=st.integers(0, 5))
def test_a_cut_character_leaves_its_neighbours_whole(fast, tokenizer, text, start, end):
    ids = tokenizer.encode(text)
    cut = ids[start : len(ids) - end]
    assert fast.decode(cut, skip_special_tokens=True) == expected(tokenizer, cut)


def test_any_ids_are_decoded_as_the_bytes_of_their_pieces(fast, tokenizer):
    rng, size = random.Random(0), len(tokenizer)
    bytes_ = [i for i, piece in enumerate(tokenizer.proto.pieces) if piece.type == Piece.BYTE]
    for _ in range(500):
        ids = [rng.choice([rng.choice(bytes_), rng.randrange(1, size)]) for _ in range(rng.randrange(1, 12))]
        assert fast.decode(ids, skip_special_tokens=True) == expected(tokenizer, ids), ids


@pytest.mark.parametrize("text", ["😀𠮟", "日😀", "𠮟る𠮷", "é😀ã"])
def test_a_stream_that_ends_within_a_character_keeps_those_before_it(backend, tokenizer, text):
    ids = tokenizer.encode(text)
    for length in range(len(ids) + 1):
        stream = DecodeStream(skip_special_tokens=True)
        said = "".join(stream.step(backend, token_id) or "" for token_id in ids[:length])
        assert said == expected(tokenizer, ids[:length]).rstrip("\ufffd")


def test_bytes_have_the_names_that_the_library_gives_them():
    names = byte_names()
    assert sorted(names.values()) == sorted(ByteLevel.alphabet())
    for byte in range(0x80):
        ((name, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(byte))
        assert name == names[byte]
    ((name, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("日")
    assert name == "".join(names[byte] for byte in "日".encode())
