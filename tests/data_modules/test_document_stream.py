import itertools
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_modules.batches.document_stream import DocumentStream

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)
PLACES = st.lists(st.integers(0, 3000), min_size=2, max_size=6).map(sorted)


def stream(lengths, seed=(1, 2)):
    return DocumentStream(np.array(lengths, dtype=np.int64), np.arange(len(lengths)), seed)


@given(lengths=LENGTHS, places=PLACES)
def test_parts_of_adjacent_stretches_are_the_parts_of_the_whole(lengths, places):
    whole = stream(lengths)

    def tokens(begin, end):
        return [(d, t) for d, a, b in whole.parts(begin, end) for t in range(a, b)]

    pieces = [token for begin, end in itertools.pairwise(places) for token in tokens(begin, end)]
    assert pieces == tokens(places[0], places[-1])
    assert len(pieces) == places[-1] - places[0]


@given(lengths=LENGTHS, number=st.integers(0, 4))
def test_each_pass_holds_every_token_of_every_document_once(lengths, number):
    each = stream(lengths)
    parts = each.parts(number * sum(lengths), (number + 1) * sum(lengths))
    assert sorted(parts) == [(i, 0, length) for i, length in enumerate(lengths)]


@given(lengths=LENGTHS, places=PLACES)
def test_parts_are_counted_correctly(lengths, places):
    one = stream(lengths)
    stretches = [(begin, end) for begin, end in itertools.pairwise(places) if begin < end]
    begins, ends = np.array(stretches, dtype=np.int64).reshape(-1, 2).T
    assert one.num_parts(begins, ends).tolist() == [len(one.parts(*stretch)) for stretch in stretches]


@given(lengths=LENGTHS, quota=st.integers(1, 400))
def test_documents_that_start_in_adjacent_stretches_make_complete_passes(lengths, quota):
    each = stream(lengths)
    num = 3 * sum(lengths)
    found = Counter(d for begin in range(0, num, quota) for d in each.starting_in(begin, min(begin + quota, num)))
    assert found == dict.fromkeys(range(len(lengths)), 3)


def test_passes_differ_in_order_and_are_functions_of_the_seed():
    lengths = list(range(1, 40))
    first, second = (stream(lengths).parts(n * sum(lengths), (n + 1) * sum(lengths)) for n in (0, 1))
    assert first != second
    assert first == stream(lengths).parts(0, sum(lengths)) != stream(lengths, (1, 3)).parts(0, sum(lengths))
    natural = stream(lengths, None).parts(0, sum(lengths))
    assert natural == [(i, 0, length) for i, length in enumerate(lengths)]
