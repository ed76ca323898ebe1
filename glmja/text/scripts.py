"""Scripts of characters, and the language of a text by its characters."""

from __future__ import annotations


def is_kana(character: str) -> bool:
    """Whether the character is a hiragana or katakana letter, an iteration mark or ー.

    The middle dot ・ (U+30FB) is left out: Chinese text uses it in foreign names.
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
    """Whether the character is a CJK ideograph.

    〇 and 々 are left out: they are marks, and Chinese writes the former in numbers (二〇〇八年).
    """
    return (
        "\u3400" <= character <= "\u4dbf"
        or "\u4e00" <= character <= "\u9fff"
        or "\uf900" <= character <= "\ufaff"
        or "\U00020000" <= character <= "\U0003ffff"
    )


def is_simplified_only(character: str) -> bool:
    """Whether the character is a simplified Chinese form that neither Japanese nor traditional Chinese writes.

    So it is in GB 2312, and in neither JIS X 0208 nor Big5; there are 2,191. 们, 这 and 说 are; 国, 学 and 会 are
    Japanese too, 你 and 她 traditional too. Of the Han characters of Wikipedia, 22 % are in Chinese and 0.0005 % in
    Japanese. JIS X 0212 and 0213 are not asked: they hold 关, 达 and 运, which no Japanese text of today has.
    """
    in_gb2312, in_jis_x_0208, in_big5 = (
        character.encode(charset, "ignore") != b"" for charset in ("gb2312", "shift_jis", "big5")
    )
    return is_han(character) and in_gb2312 and not in_jis_x_0208 and not in_big5


def is_japanese(text: str) -> bool:
    """Whether the text holds a kana."""
    return any(map(is_kana, text))


def language_of(text: str) -> str:
    """`ja` if the text holds a kana, else `zh` if it holds a Han character, else `other`."""
    if is_japanese(text):
        return "ja"
    return "zh" if any(map(is_han, text)) else "other"


def can_encode(character: str, charset: str) -> bool:
    """Whether a legacy character set holds the character."""
    try:
        character.encode(charset)
    except UnicodeEncodeError:
        return False
    return True
