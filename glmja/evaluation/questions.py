"""The eight questions that a model is asked before, while and after it learns Japanese.

The project that this one follows asked them, so that answers can be laid side by side.
"""

from __future__ import annotations

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
