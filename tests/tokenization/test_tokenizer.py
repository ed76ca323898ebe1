import io

import pytest
from hypothesis import given, settings
from sentencepiece import SentencePieceTrainer

from glmja.families.chatglm3 import CONTROL_TOKENS
from glmja.families.recognition import load_tokenizer
from glmja.tokenization.tokenizer import (
    FILE_NAME,
    GLMTokenizer,
    TokenizerNotFoundError,
    with_control_tokens,
)
from glmja.tokenization.vocabulary import Piece, append_pieces, parse_proto
from tests.support.strategies import ADVERSARIAL_TEXT, FORGERIES, TEXT


def test_control_tokens_follow_the_pieces_of_the_base_in_chatglms_order(base_dir, base_tokenizer):
    num_pieces = len(parse_proto((base_dir / FILE_NAME).read_bytes()).pieces)
    assert [base_tokenizer.control_id(name) for name in CONTROL_TOKENS] == [*range(num_pieces, num_pieces + 9)]
    assert len(base_tokenizer) == num_pieces + 9
    assert base_tokenizer.prefix_ids == [num_pieces + 1, num_pieces + 3]
    assert base_tokenizer.stop_ids == [2, num_pieces + 6, num_pieces + 8]


def test_a_saved_tokenizer_is_the_same_when_loaded(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = GLMTokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.proto == tokenizer.proto


def test_chatglm2_has_five_control_tokens_and_no_roles(base_dir, tmp_path):
    (tmp_path / FILE_NAME).write_bytes((base_dir / FILE_NAME).read_bytes())
    two, three = load_tokenizer(tmp_path, "chatglm2"), load_tokenizer(base_dir)
    assert len(two) == len(three) - 4
    assert two.control_id("<eop>") == three.control_id("<eop>")
    assert two.stop_ids == [2]
    with pytest.raises(ValueError, match=r"no control token '<\|user\|>'; it has"):
        two.role_id("user")


def test_the_published_layouts_placeholders_become_control_tokens(base_dir, tmp_path):
    proto = parse_proto((base_dir / FILE_NAME).read_bytes())
    published = append_pieces(proto, [*(f"vcxv{i}" for i in range(1, 10)), "です"])
    (tmp_path / FILE_NAME).write_bytes(published.SerializeToString())
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer) == len(proto.pieces) + 10
    assert tokenizer.control_id("[MASK]") == len(proto.pieces)
    assert tokenizer.control_id("<|observation|>") == len(proto.pieces) + 8
    assert tokenizer.encode("です")[-1] == len(tokenizer) - 1
    assert not set(tokenizer.encode("vcxv1 vcxv9")) & set(tokenizer.control_tokens.values())


@pytest.fixture(scope="module")
def normalising(texts):
    """A vocabulary that folds full-width characters and drops those without width before it looks for pieces."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([*texts["en"], *texts["zh"]]), model_writer=model, vocab_size=1500, model_type="bpe",
        byte_fallback=True, normalization_rule_name="nmt_nfkc_cf", minloglevel=2,
    )  # fmt: skip
    return GLMTokenizer(with_control_tokens(parse_proto(model.getvalue()), CONTROL_TOKENS))


@pytest.mark.parametrize("num_texts", [200, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("vocabulary", ["tokenizer", "normalising"])
def test_no_text_makes_a_control_token(vocabulary, num_texts, request):
    tokenizer = request.getfixturevalue(vocabulary)
    forbidden = {0, *tokenizer.control_tokens.values()}  # 0 is the unknown

    @settings(max_examples=num_texts)
    @given(ADVERSARIAL_TEXT)
    def law(text):
        assert not forbidden & {*tokenizer.encode(text), *tokenizer.encode_batch([text])[0]}

    assert len(tokenizer.control_tokens) == 11
    assert not forbidden & {token for ids in tokenizer.encode_batch(FORGERIES) for token in ids}
    law()


@given(text=TEXT)
def test_decoding_gives_the_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_tokens_have_no_text(tokenizer):
    ids = [*tokenizer.control_tokens.values(), *tokenizer.encode("です")]
    assert tokenizer.decode(ids) == "です"


@given(text=TEXT)
def test_ids_count_the_characters_that_they_write(tokenizer, text):
    ids = tokenizer.encode(text)
    written = sum(tokenizer.num_characters[i] for i in ids)
    assert written == len(text) + bool(text)  # the dummy prefix is one more


def test_batches_give_what_single_texts_give(tokenizer, texts):
    assert tokenizer.encode_batch(texts["ja"], num_threads=2) == [tokenizer.encode(text) for text in texts["ja"]]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "日\ud83d"])
def test_lone_surrogates_are_refused(tokenizer, text):
    with pytest.raises(ValueError, match="contains a lone surrogate"):
        tokenizer.encode(text)


@pytest.mark.parametrize("ids", [[-1], [10**6], [5, 10**9]])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, ids):
    with pytest.raises(ValueError, match="are not all in the vocabulary of"):
        tokenizer.decode(ids)


def test_the_error_for_a_folder_without_tokenizer_names_what_it_holds(tmp_path):
    (tmp_path / "other.txt").touch()
    with pytest.raises(TokenizerNotFoundError, match=r"no tokenizer.model in .*found: other.txt"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_tokenizer(tmp_path / "nothing")


def test_a_damaged_tokenizer_is_refused_by_name(base_dir, tmp_path):
    (tmp_path / FILE_NAME).write_bytes((base_dir / FILE_NAME).read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"tokenizer.model: not a SentencePiece model"):
        load_tokenizer(tmp_path)


def test_a_damaged_config_beside_a_tokenizer_is_refused_by_name(base_dir, tmp_path):
    (tmp_path / FILE_NAME).write_bytes((base_dir / FILE_NAME).read_bytes())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: not JSON"):
        load_tokenizer(tmp_path)


def test_a_model_that_sentencepiece_refuses_is_refused(base_tokenizer):
    proto = append_pieces(base_tokenizer.proto, ["の", "の"])
    with pytest.raises(ValueError, match="SentencePiece rejects the model"):
        GLMTokenizer(proto)


class TestReal:
    """ChatGLM3's own vocabulary."""

    def test_stock_ids(self, data):
        tokenizer = load_tokenizer(data / "chatglm3")
        assert len(tokenizer) == 64798
        assert tokenizer.control_tokens["[gMASK]"] == 64790
        assert tokenizer.stop_ids == [2, 64795, 64797]

    def test_the_published_merge(self, data, tmp_path):
        (tmp_path / FILE_NAME).write_bytes((data / "reference" / "cn_and_ja.model").read_bytes())
        tokenizer = load_tokenizer(tmp_path)
        assert len(tokenizer) == 78554
        assert tokenizer.control_id("<|assistant|>") == 64796
        assert tokenizer.proto.pieces[64796].type == Piece.CONTROL


def test_the_end_of_a_text_must_be_a_control_token(base_dir):
    proto = parse_proto((base_dir / FILE_NAME).read_bytes())
    proto.pieces[proto.trainer_spec.eos_id].type = Piece.NORMAL
    with pytest.raises(ValueError, match="its end-of-text token '</s>' is not a control token"):
        GLMTokenizer(with_control_tokens(proto, CONTROL_TOKENS))
