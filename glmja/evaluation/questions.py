"""Eight questions in Chinese and Japanese that are asked before, during and after training.

They are those of the project that this one reproduces, so that answers can be compared.
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
