import unicodedata

from hypothesis import given

from glmja.text.printable import printable
from tests.support.strategies import TEXT


@given(TEXT)
def test_control_characters_are_replaced(text):
    shown = printable(text)
    assert len(shown) == len(text)
    assert not any(unicodedata.category(c)[0] == "C" for c in shown if c not in "\n\u200d")


def test_long_texts_are_cut_and_the_writing_direction_is_kept():
    assert printable("あ" * 9, 4) == "ああああ…"
    assert printable("a\u202eb\x1b[31m\tc") == "a\ufffdb\ufffd[31m c"
