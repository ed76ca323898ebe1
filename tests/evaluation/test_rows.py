import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.evaluation.rows import to_rows


def predicted(rows):
    return [token_id for row in rows for token_id in row.ids[row.num_given :]]


def texts_of(rows, tokenizer):
    return [tokenizer.decode(row.ids[row.num_given :]) for row in rows]


@pytest.fixture(scope="module")
def document(texts):
    return texts["ja"][0] + texts["en"][0][:200] + "𠮟𩸽👍🏽\u3000①ｶﾞ" + texts["zh"][0]


def test_rows_contain_the_text_and_begin_with_the_prefix(tokenizer, document):
    prefix, ids = tokenizer.prefix_ids, tokenizer.encode(document)
    rows = to_rows(document, tokenizer, 20)
    assert [row.ids for row in rows] == [prefix + ids[start : start + 18] for start in range(0, len(ids), 18)]
    assert all(row.num_given == len(prefix) for row in rows)


@pytest.mark.parametrize("row_len", [8, 20, 64])
@pytest.mark.parametrize("stride", [None, 1, 5, 8])
def test_every_token_is_predicted_once_after_the_tokens_before_it(tokenizer, base_tokenizer, document, row_len, stride):
    for beside in ([], [base_tokenizer]):
        rows, start = to_rows(document, tokenizer, row_len, stride, beside), 0
        ids, num_prefix = tokenizer.encode(document), len(tokenizer.prefix_ids)
        assert predicted(rows) == ids
        for row in rows:
            assert (
                row.ids[:num_prefix] == tokenizer.prefix_ids and num_prefix <= row.num_given < len(row.ids) <= row_len
            )
            context = row.ids[num_prefix : row.num_given]
            assert context == ids[start - len(context) : start]
            start += len(row.ids) - row.num_given


def test_a_stride_fills_rows_with_context(tokenizer, document):
    rows = to_rows(document, tokenizer, 20, 5)
    assert [len(row.ids) - row.num_given for row in rows[:-1]] == [18, *[5] * (len(rows) - 2)]
    assert all(row.num_given == 2 + 13 for row in rows[1:])


@pytest.mark.parametrize("stride", [18, 20])
def test_a_stride_of_a_whole_row_equals_none(tokenizer, base_tokenizer, document, stride):
    assert to_rows(document, tokenizer, 20, stride) == to_rows(document, tokenizer, 20)
    both = [to_rows(document, tokenizer, 20, given, [base_tokenizer]) for given in (stride, None)]
    assert both[0] == both[1]


@pytest.mark.parametrize("stride", [None, 8])
def test_rows_of_models_that_are_compared_have_equal_characters(tokenizer, base_tokenizer, document, stride):
    pair = ((tokenizer, base_tokenizer), (base_tokenizer, tokenizer))
    new, old = (to_rows(document, one, 48, stride, [other]) for one, other in pair)
    assert texts_of(new, tokenizer) == texts_of(old, base_tokenizer)
    contexts = [tokenizer.decode(row.ids[2 : row.num_given]) for row in new]
    assert contexts == [base_tokenizer.decode(row.ids[2 : row.num_given]) for row in old]
    assert len(to_rows(document, tokenizer, 48, stride)) < len(new) <= len(old)
    assert predicted(new) == tokenizer.encode(document) and predicted(old) == base_tokenizer.encode(document)


def test_text_that_is_tokenized_alike_has_the_rows_that_it_has_alone(tokenizer, base_tokenizer, texts):
    assert tokenizer.encode(texts["zh"][0]) == base_tokenizer.encode(texts["zh"][0])
    assert to_rows(texts["zh"][0], tokenizer, 20, 5, [base_tokenizer]) == to_rows(texts["zh"][0], tokenizer, 20, 5)


@given(st.text(max_size=60), st.integers(4, 24), st.none() | st.integers(1, 24))
def test_no_text_loses_a_token(tokenizer, base_tokenizer, text, row_len, stride):
    for one, other in ((tokenizer, base_tokenizer), (base_tokenizer, tokenizer)):
        rows = to_rows(text, one, row_len, stride, [other])
        assert predicted(rows) == one.encode(text) and all(len(row.ids) <= row_len for row in rows)
