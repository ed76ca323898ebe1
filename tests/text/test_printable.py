import unicodedata

from hypothesis import given

from glmja.text.printable import printable
from tests.support.strategies import TEXT


@given(TEXT)
def test_nothing_that_is_shown_acts_on_a_terminal(text):
    shown = printable(text)
    assert len(shown) == len(text)
    assert not any(unicodedata.category(c)[0] == "C" for c in shown if c not in "\n\u200d")


def test_long_texts_are_cut_and_writing_direction_stays():
    assert printable("あ" * 9, 4) == "ああああ…"
    assert printable("a\u202eb\x1b[31m\tc") == "a\ufffdb\ufffd[31m c"
