"""Scripts of characters, and detection of a text's language from them."""

from __future__ import annotations

LANGUAGES = ("ja", "zh", "en", "code")  # in the order in which they are shown


def is_kana(character: str) -> bool:
    """Returns whether a character is a hiragana or katakana letter, an iteration mark or ー.

    The middle dot ・ (U+30FB) is excluded: Chinese text uses it in foreign names.
    """
    return (
        "\u3041" <= character <= "\u3096"
        or "\u309d" <= character <= "\u309f"
        or "\u30a1" <= character <= "\u30fa"
        or "\u30fc" <= character <= "\u30ff"
        or "\u31f0" <= character <= "\u31ff"
        or "\uff66" <= character <= "\uff9f"
    )


def is_han(character: str) -> bool:
    """Returns whether a character is a CJK ideograph.

    〇 and 々 are excluded: they are marks, and Chinese uses 〇 in numbers (二〇〇八年).
    """
    return (
        "\u3400" <= character <= "\u4dbf"
        or "\u4e00" <= character <= "\u9fff"
        or "\uf900" <= character <= "\ufaff"
        or "\U00020000" <= character <= "\U0003ffff"
    )


def is_simplified_only(character: str) -> bool:
    """Returns whether a character is a simplified Chinese form that Japanese and traditional Chinese do not use.

    These are the 2,191 ideographs in GB 2312 that are in neither JIS X 0208 nor Big5: 们, 这 and 说, but not 国, 学
    and 会, which Japanese uses, nor 你 and 她, which traditional Chinese uses. They are 22 % of the Han characters of
    Chinese Wikipedia and 0.0005 % of those of Japanese Wikipedia. JIS X 0212 and 0213 are ignored: they contain 关, 达
    and 运, which do not occur in modern Japanese.
    """
    in_gb2312, in_jis_x_0208, in_big5 = (
        character.encode(charset, "ignore") != b"" for charset in ("gb2312", "shift_jis", "big5")
    )
    return is_han(character) and in_gb2312 and not in_jis_x_0208 and not in_big5


def is_japanese(text: str) -> bool:
    """Returns whether a text contains a kana."""
    return any(map(is_kana, text))


def language_of(text: str) -> str:
    """Returns `ja` if a text contains a kana, else `zh` if it contains a Han character, else `other`."""
    if is_japanese(text):
        return "ja"
    return "zh" if any(map(is_han, text)) else "other"


def can_encode(character: str, charset: str) -> bool:
    """Returns whether a legacy character set can encode a character."""
    try:
        character.encode(charset)
    except UnicodeEncodeError:
        return False
    return True
