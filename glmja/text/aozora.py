"""The markup of Aozora Bunko: ruby, notes, characters that are described, and what stands around a work.

Source: https://www.aozora.gr.jp/annotation/. A reading stands in 《》 after its characters, which begin at ｜ where it
would be unclear (｜青空文庫《あおぞらぶんこ》); notes are between ［＃ and ］. A character that JIS X 0208 lacks is ※
and a note with its place in JIS X 0213:2004 or Unicode.
"""

from __future__ import annotations

import re

# a title, as in 《源氏物語》, has ideographs, a reading has none unless ｜ says where its characters begin
_RUBY = re.compile(
    r"(?<=[\u3005-\u3007\u3400-\u9fff\uf900-\ufaffヶ\U00020000-\U0003ffff])《[^《》\n\u3400-\u9fff]{1,40}》"
)
_LONG_RUBY = re.compile(r"｜([^｜《》\n]{1,40})《[^《》\n]{1,40}》")
_NOTE = re.compile(r"［＃[^［］]*］")
_DESCRIBED = re.compile(
    r"※［＃[^［］]*?(?:第[34]水準(?P<plane>[12])-(?P<row>\d{1,2})-(?P<cell>\d{1,2})|U\+(?P<code>[0-9A-F]{4,5}))[^［］]*］"
)
_LEGEND = re.compile(r"^-{20,}\n【テキスト中に現れる記号について】.*?^-{20,}\n", re.MULTILINE | re.DOTALL)
_COLOPHON = re.compile(r"^底本：.*\Z", re.MULTILINE | re.DOTALL)


def strip_aozora(text: str) -> str:
    """Returns a text without Aozora's ruby and notes, and without the legend before a work and the colophon after it.

    Described characters (※［＃「口＋世」、第3水準1-14-91］) are replaced by themselves.
    """
    if "［＃" in text:
        text = _DESCRIBED.sub(_described_character, text)
        while (shorter := _NOTE.sub("", text)) != text:  # notes within notes
            text = shorter
    if "《" in text:
        text = _RUBY.sub("", _LONG_RUBY.sub(r"\1", _LEGEND.sub("", text)))
    return _COLOPHON.sub("", text) if "底本：" in text else text


def count_aozora(text: str) -> int:
    """Returns the number of notes and readings in a text."""
    notes = text.count("［＃")
    if "《" not in text:
        return notes
    text, long_readings = _LONG_RUBY.subn("", text)
    return notes + long_readings + len(_RUBY.findall(text))


def _described_character(found: re.Match[str]) -> str:
    if found["code"]:
        code = int(found["code"], 16)
        return "※" if 0xD800 <= code < 0xE000 else chr(code)
    row_and_cell = bytes(0xA0 + min(94, int(found[part])) for part in ("row", "cell"))
    encoded = row_and_cell if found["plane"] == "1" else b"\x8f" + row_and_cell
    return encoded.decode("euc_jis_2004", errors="ignore") or "※"
