"""The normal form NFC in blocks is that of the whole text."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.text import normal_form

# a base with a voicing sign, Hangul letters that join, accents in two orders, compatibility ideographs, a composition
# exclusion that NFC lengthens
CHARACTERS = "がかは\u3099\u309aａe\u0301\u0323\u0327 a\n漢字\uf900𠮟\U0002f800각\u1100\u1161\u11a8\u0958\u0344"


@given(st.text(st.sampled_from(CHARACTERS), max_size=60), st.integers(1, 7))
def test_blocks_of_any_length_give_the_normal_form_and_the_count_of_the_whole(text, length):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normal_form, "_BLOCK", length)
        found, count = normal_form.compose(text), normal_form.count_decomposed(text)
    whole = unicodedata.normalize("NFC", text)
    assert found == whole
    assert count == max(0, len(text) - len(whole))


def test_a_long_text_is_normalized_in_blocks(monkeypatch):
    lengths = []
    monkeypatch.setattr(normal_form, "_BLOCK", 4)
    monkeypatch.setattr(
        normal_form.unicodedata, "normalize", lambda form, text: lengths.append(len(text)) or text, raising=True
    )
    normal_form.compose("かな漢字 " * 100)
    assert max(lengths) < 10
