import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.tokenization import training_corpus
from glmja.tokenization.training_corpus import read_corpus


@pytest.mark.parametrize("limit", [1, 100, 5_000])
def test_any_limit_gives_a_sample_that_is_not_longer(base_tokenizer, texts, limit):
    proto = base_tokenizer.proto
    for documents in (texts["ja"], ["".join(texts["ja"])], ["桜"]):
        assert 1 <= len(read_corpus(proto, documents, max_tokens=limit).ids) <= limit


@given(st.lists(st.text(st.sampled_from("あ。 \n"), max_size=60)), st.integers(1, 30))
def test_long_lines_are_cut_without_loss(documents, longest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_corpus, "_MAX_LINE", longest)
        parts = list(training_corpus._lines(documents))
    assert "".join(parts) == "".join(documents).replace("\n", "")
    assert all(1 <= len(part) <= longest for part in parts)
