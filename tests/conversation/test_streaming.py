import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.conversation.replies import split_metadata
from glmja.conversation.streaming import ReplyStream, TextStream
from glmja.tokenization.vocabulary import Piece
from tests.support.strategies import ANY_CHARACTER, TEXT_WITH_CONTROL_NAMES

RAW_BYTES = st.lists(st.binary(max_size=6) | st.sampled_from([c.encode() for c in "😀𠮷é\u0800"]), max_size=6)


def said(stream, ids):
    return [*(stream.add(token_id) for token_id in ids), stream.close()]


def byte_ids(tokenizer, raw):
    ids = {p.piece: i for i, p in enumerate(tokenizer.proto.pieces) if p.type == Piece.BYTE}
    return [ids[f"<0x{byte:02X}>"] for byte in raw]


@st.composite
def any_ids(draw, tokenizer):
    """Pieces, control tokens and bytes in any order, bytes that are no text among them."""
    parts = draw(st.lists(st.lists(st.integers(0, len(tokenizer) - 1), max_size=3) | RAW_BYTES, max_size=8))
    return [i for part in parts for x in part for i in ([x] if isinstance(x, int) else byte_ids(tokenizer, x))]


@given(st.data())
def test_what_is_shown_bit_by_bit_is_the_text_of_all_ids(tokenizer, data):
    ids = data.draw(any_ids(tokenizer))
    assert "".join(said(TextStream(tokenizer), ids)) == tokenizer.decode(ids)


@given(st.text(ANY_CHARACTER, max_size=20) | TEXT_WITH_CONTROL_NAMES)
def test_no_bit_of_a_text_is_half_a_character(tokenizer, text):
    ids = tokenizer.encode(text)
    bits = said(TextStream(tokenizer), ids)
    assert "".join(bits) == tokenizer.decode(ids)
    assert "\ufffd" in text or not any("\ufffd" in bit for bit in bits)


def test_a_character_in_bytes_is_shown_with_its_last_byte(tokenizer):
    assert said(TextStream(tokenizer), byte_ids(tokenizer, "a😀é".encode()))[:-1] == ["a", "", "", "", "😀", "", "é"]


def test_bytes_that_become_no_character_are_shown_when_that_is_certain(tokenizer):
    e3, a = byte_ids(tokenizer, b"\xe3a")
    assert said(TextStream(tokenizer), [e3, a, e3]) == ["", "\ufffda", "", "\ufffd"]


def test_the_space_before_a_text_is_not_shown_and_others_are(tokenizer):
    bits = said(TextStream(tokenizer), tokenizer.encode("  the sea "))
    assert "".join(bits) == "  the sea "
    assert "".join(said(TextStream(tokenizer), tokenizer.encode("the sea"))) == "the sea"


@given(st.data())
def test_a_reply_is_shown_as_it_is_remembered(tokenizer, data):
    ids = data.draw(any_ids(tokenizer))
    if data.draw(st.booleans()):
        ids = [*tokenizer.encode("\n"), *ids]
    metadata, content = split_metadata(ids, tokenizer)
    stream = ReplyStream(tokenizer)
    assert "".join(said(stream, ids)) == (f"{metadata}\n{content}" if metadata else content)
    assert stream.ids == ids


@pytest.mark.parametrize(("metadata", "shown"), [("", ["", "あ"]), ("get_weather", ["get_weather\n", "あ"])])
def test_a_metadata_line_is_shown_whole_unless_it_is_empty(tokenizer, metadata, shown):
    line, (*spaces, letter) = tokenizer.encode(f"{metadata}\n"), tokenizer.encode("あ")
    bits = said(ReplyStream(tokenizer), [*line, *spaces, letter])
    assert not any(bits[: len(line) - 1])
    assert [bits[len(line) - 1], "".join(bits[len(line) :])] == shown


def test_without_a_line_feed_all_is_shown_at_the_end(tokenizer):
    bits = said(ReplyStream(tokenizer), tokenizer.encode("はい、そうです"))
    assert not any(bits[:-1])
    assert bits[-1] == "はい、そうです"
