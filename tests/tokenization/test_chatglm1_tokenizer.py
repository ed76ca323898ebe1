import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.tokenization.chatglm1_tokenizer import ChatGLM1Tokenizer
from glmja.tokenization.tokenizer import GLMTokenizer, read_proto
from glmja.tokenization.vocabulary import Piece
from tests.support.chatglm1 import CONTROL_TOKENS, train_vocabulary
from tests.support.strategies import ADVERSARIAL_TEXT, FORGERIES

SPACES = st.lists(st.sampled_from([" ", "  ", " " * 79, " " * 81, "\n", "\t", "a", "海", "、", "\n\n"]), max_size=12)


@pytest.fixture(scope="module")
def tokenizer(texts):
    return ChatGLM1Tokenizer(train_vocabulary(texts["zh"] + texts["en"]))


@pytest.fixture(scope="module")
def real(data):
    return ChatGLM1Tokenizer(read_proto(data / "chatglm1_tiny", "ice_text.model"))


@pytest.fixture(scope="module")
def expected(data):
    return json.loads((data / "chatglm1_tiny" / "expected.json").read_text())


class TestReal:
    """The published vocabulary, against the ids of the official code."""

    def test_texts_have_the_ids_of_sentencepiece_and_no_control_tokens(self, real, expected):
        for case in expected["tokenizer"]:
            assert real.encode(case["text"]) == case["sp_ids"]
            assert real.decode(case["sp_ids"]) == case["sp_decoded"]

    def test_prompts_have_the_ids_of_the_official_chat(self, real, expected):
        for case in expected["chat"]:
            assert real.prompt_ids(real.encode(case["prompt"])) == case["ids"]

    def test_stock_ids(self, real):
        assert [real.control_id(name) for name in CONTROL_TOKENS] == [*range(130000, 130008)]
        assert (len(real), real.stop_ids, real.prefix_ids) == (130344, [130005], [130001, 130004])
        assert list(real.new_ids) == []

    def test_another_class_does_not_open_it(self, real):
        message = "made for the algorithm UNIGRAM, not BPE .ChatGLM-6B of March 2023 has such a one, in ice_text.model"
        with pytest.raises(ValueError, match=message):
            GLMTokenizer(real.proto)


def test_a_vocabulary_of_bpe_is_refused(base_tokenizer):
    with pytest.raises(ValueError, match=r"made for the algorithm BPE, not UNIGRAM$"):
        ChatGLM1Tokenizer(base_tokenizer.proto)


@pytest.mark.parametrize("name", ["[gMASK]", "<|blank_7|>"])
def test_the_first_version_of_the_vocabulary_is_refused(name, tokenizer):
    proto = spm.ModelProto()
    proto.CopyFrom(tokenizer.proto)
    next(piece for piece in proto.pieces if piece.piece == name).piece = "<another>"
    with pytest.raises(ValueError, match=r"has no piece '.*'; if it is the first version of ChatGLM-6B's tokenizer"):
        ChatGLM1Tokenizer(proto)


@pytest.mark.parametrize("num_texts", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_text_makes_a_control_token(tokenizer, num_texts):
    forbidden = {0, *tokenizer.control_tokens.values()}

    @settings(max_examples=num_texts)
    @given(ADVERSARIAL_TEXT)
    def law(text):
        assert not forbidden & {*tokenizer.encode(text), *tokenizer.encode_batch([text])[0]}

    assert not forbidden & {token for ids in tokenizer.encode_batch(FORGERIES) for token in ids}
    law()


@given(parts=SPACES)
def test_white_space_is_kept_but_for_single_spaces_at_the_ends(tokenizer, parts):
    text = "".join(parts)
    decoded = tokenizer.decode(tokenizer.encode(f"x{text}x"))
    assert decoded == f"x{text}x"


def test_runs_of_spaces_are_split_from_the_left(tokenizer):
    pieces = [tokenizer.piece(i) for i in tokenizer.encode("a" + " " * 161 + "b")]
    assert pieces[-3:] == ["<|blank_80|>", "<|blank_80|>", "▁b"]
    assert [tokenizer.piece(i) for i in tokenizer.encode("\n\t  ")][-3:] == ["<n>", "<|tab|>", "<|blank_2|>"]


def test_text_that_spells_a_piece_letter_by_letter_is_not_white_space(tokenizer):
    ids = [i for letter in "<n>" for i in tokenizer.encode(letter)[-1:]]
    assert tokenizer.decode([*tokenizer.encode("a"), *ids]) == "a<n>"


def test_ids_count_the_characters_that_they_write(tokenizer):
    for text in ("a\n\tb", "a" + " " * 30 + "b", "海龘𠮟"):
        written = sum(tokenizer.num_characters[i] for i in tokenizer.encode(text))
        assert written == len(text) + 1  # the dummy prefix is one more


def test_a_prompt_ends_with_the_tokens_before_an_answer(tokenizer):
    ids = tokenizer.encode("a")
    assert tokenizer.prompt_ids(ids) == [*ids, tokenizer.control_id("[gMASK]"), tokenizer.control_id("<sop>")]
    assert tokenizer.stop_ids == [tokenizer.control_id("<eop>")]


def test_new_pieces_follow_the_bytes(tokenizer):
    assert list(tokenizer.new_ids) == []
    proto = spm.ModelProto()
    proto.CopyFrom(tokenizer.proto)
    proto.pieces.add(piece="ですね", score=-5.0, type=Piece.NORMAL)
    grown = ChatGLM1Tokenizer(proto)
    assert list(grown.new_ids) == [len(tokenizer)]


def test_batches_give_what_single_texts_give(tokenizer, texts):
    lines = [f"{text}\n  \t" for text in texts["ja"][:50]]
    assert tokenizer.encode_batch(lines, num_threads=2) == [tokenizer.encode(line) for line in lines]


def test_it_is_saved_under_its_own_name_with_the_published_settings(tokenizer, tmp_path, data):
    tokenizer.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"ice_text.model", "tokenizer_config.json"}
    published = json.loads((data / "chatglm1_tiny" / "tokenizer_config.json").read_text())
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert saved == {key: value for key, value in published.items() if key != "name_or_path"}
    assert ChatGLM1Tokenizer(read_proto(tmp_path, "ice_text.model")).fingerprint == tokenizer.fingerprint
