import pytest

from glmja.errors import ModelError
from glmja.tokenization.special_tokens import check_names, with_special_tokens
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import append_pieces, check_premises


def test_special_tokens_follow_new_pieces_and_no_text_yields_them(base_tokenizer):
    grown = with_special_tokens(append_pieces(base_tokenizer.proto, ["ゑ"]), ["<|law|>", "[CASE]"])
    new = GLMTokenizer(grown)
    assert check_premises(base_tokenizer.proto, grown, "japanese") == []
    first = len(base_tokenizer)
    assert (new.control_id("<|law|>"), new.control_id("[CASE]")) == (first + 1, first + 2)
    assert new.new_ids == range(first, first + 3)
    assert not {first + 1, first + 2} & set(new.encode("<|law|>[CASE] ▁<|law|>"))
    again = with_special_tokens(append_pieces(grown, ["ヱ"]), ["<|more|>"])
    assert check_premises(grown, again, "japanese") == []
    with pytest.raises(ModelError, match=rf"'<\|law\|>' is in the vocabulary already, with the id {first + 1}"):
        with_special_tokens(grown, ["<|law|>"])


@pytest.mark.parametrize("name", ["law", "<law", "<a b>", "", "<>", "の", "<a><b>", "[a", "<|x|>\n"])
def test_a_name_that_could_occur_in_text_is_refused(name):
    with pytest.raises(ValueError, match="could occur in a text; write a name between < and >"):
        check_names([name])


def test_a_name_given_twice_is_refused():
    check_names(["<|a|>", "[a]"])
    with pytest.raises(ValueError, match="is given twice"):
        check_names(["<|a|>", "<|a|>"])
