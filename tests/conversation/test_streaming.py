import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.conversation.replies import split_metadata
from glmja.conversation.streaming import ReplyStream, TextStream
from glmja.tokenization.vocabulary import Piece
from tests.support.strategies import ANY_CHARACTER, TEXT_WITH_CONTROL_NAMES

RAW_BYTES = st.lists(st.binary(max_size=6) | st.sampled_from([c.encode() for c in "😀𠮷é\u0800"]), max_size=6)


def parts_of(stream, ids):
    return [*(stream.add(token_id) for token_id in ids), stream.close()]


def byte_ids(tokenizer, raw):
    ids = {p.piece: i for i, p in enumerate(tokenizer.proto.pieces) if p.type == Piece.BYTE}
    return [ids[f"<0x{byte:02X}>"] for byte in raw]


@st.composite
def any_ids(draw, tokenizer):
    """Pieces, control tokens and bytes in any order, including invalid UTF-8."""
    parts = draw(st.lists(st.lists(st.integers(0, len(tokenizer) - 1), max_size=3) | RAW_BYTES, max_size=8))
    return [i for part in parts for x in part for i in ([x] if isinstance(x, int) else byte_ids(tokenizer, x))]


@given(st.data())
def test_the_streamed_parts_join_to_the_text_of_all_ids(tokenizer, data):
    ids = data.draw(any_ids(tokenizer))
    assert "".join(parts_of(TextStream(tokenizer), ids)) == tokenizer.decode(ids)


@given(st.text(ANY_CHARACTER, max_size=20) | TEXT_WITH_CONTROL_NAMES)
def test_no_streamed_part_ends_inside_a_character(tokenizer, text):
    ids = tokenizer.encode(text)
    parts = parts_of(TextStream(tokenizer), ids)
    assert "".join(parts) == tokenizer.decode(ids)
    assert "\ufffd" in text or not any("\ufffd" in part for part in parts)


def test_a_character_in_byte_tokens_is_emitted_with_its_last_byte(tokenizer):
    assert parts_of(TextStream(tokenizer), byte_ids(tokenizer, "a😀é".encode()))[:-1] == [
        "a",
        "",
        "",
        "",
        "😀",
        "",
        "é",
    ]


def test_invalid_bytes_are_emitted_as_soon_as_they_cannot_become_a_character(tokenizer):
    e3, a = byte_ids(tokenizer, b"\xe3a")
    assert parts_of(TextStream(tokenizer), [e3, a, e3]) == ["", "\ufffda", "", "\ufffd"]


def test_the_dummy_prefix_space_is_not_emitted_and_other_spaces_are(tokenizer):
    parts = parts_of(TextStream(tokenizer), tokenizer.encode("  the sea "))
    assert "".join(parts) == "  the sea "
    assert "".join(parts_of(TextStream(tokenizer), tokenizer.encode("the sea"))) == "the sea"


@given(st.data())
def test_a_streamed_reply_equals_its_metadata_and_content(tokenizer, data):
    ids = data.draw(any_ids(tokenizer))
    if data.draw(st.booleans()):
        ids = [*tokenizer.encode("\n"), *ids]
    metadata, content = split_metadata(ids, tokenizer)
    stream = ReplyStream(tokenizer)
    assert "".join(parts_of(stream, ids)) == (f"{metadata}\n{content}" if metadata else content)
    assert stream.ids == ids


@pytest.mark.parametrize(("metadata", "shown"), [("", ["", "あ"]), ("get_weather", ["get_weather\n", "あ"])])
def test_a_metadata_line_is_emitted_as_a_whole_unless_it_is_empty(tokenizer, metadata, shown):
    line, (*spaces, letter) = tokenizer.encode(f"{metadata}\n"), tokenizer.encode("あ")
    parts = parts_of(ReplyStream(tokenizer), [*line, *spaces, letter])
    assert not any(parts[: len(line) - 1])
    assert [parts[len(line) - 1], "".join(parts[len(line) :])] == shown


def test_without_a_line_feed_everything_is_emitted_at_the_end(tokenizer):
    parts = parts_of(ReplyStream(tokenizer), tokenizer.encode("はい、そうです"))
    assert not any(parts[:-1])
    assert parts[-1] == "はい、そうです"
