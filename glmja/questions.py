"""The eight questions that a model is asked before, while and after it learns Japanese.

The project that this one follows asked them, so that answers can be laid side by side.
"""

from __future__ import annotations

from glmja.text_quality import is_japanese
from glmja.vocabulary import is_han

QUESTIONS = (
    "你是谁",
    "你喜欢甜粽子还是咸粽子",
    "あなたは誰ですか",
    "すみません、ちょっとお聞きしたいことがあるんですが",
    "ゲーム開発者になるために学ぶべきことのステップを教えてください。",
    "長編映画とはどのようなものですか",
    "魚の種類はどっち？イコクエイラクブカとロープ",
    "ラクダはなぜ水なしで長く生きられるのか？",
)


def language_of(text: str) -> str:
    """`ja` if the text holds a kana, else `zh` if it holds a Han character, else `other`."""
    if is_japanese(text):
        return "ja"
    return "zh" if any(map(is_han, text)) else "other"
