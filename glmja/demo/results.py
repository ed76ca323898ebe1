"""Tables at the end of the demo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from glmja.demo.recitation import Recitation
from glmja.evaluation.scores import Scores
from glmja.text.printable import one_line
from glmja.text.terminal import make_table

HELD_OUT = "Before and after, on text that was held out from training"
MEMORISED = "Memorised: trained questions answered word for word"
REPLIES = "Before and after, on questions that were trained on (memorised)"

_REPLY_LEN = 80  # characters of a reply that are shown

# asked at the end; all are in the trained part of the shipped conversations
SHOWN = (
    "こんにちは。",
    "你好",
    "Hello",
    "あなたは誰ですか",
    "你是谁",
    "Which planet has the shortest day?",
    "长江有多长？",
    "富士山の高さと、県はどこ？",
    "源氏物語を書いたのは誰？",
)


def recitations(asked: Mapping[str, Recitation]) -> Table:
    """Counts the trained questions that each model answers word for word.

    Args:
        asked: The replies of each model, by name.
    """
    languages = list(next(iter(asked.values())).questions)
    rows = [[name, *(one.counts().get(lang, "–") for lang in languages)] for name, one in asked.items()]
    return make_table(["model", *languages], rows, title=MEMORISED, align="right")


def figures(scores: Mapping[str, Scores]) -> Table:
    """Compares tokens per character, bits per character and verdicts on retention of held-out text, before and after.

    Args:
        scores: Scores of each model and of its base, by name.
    """
    rows = []
    *_, last = scores.values()
    for lang, found in last.text.items():
        assert found.baseline is not None
        tokens = f"{found.baseline.tokens_per_char:.3f} → {found.model.tokens_per_char:.3f}"
        bits = [f"{found.baseline.bits_per_char:.2f}", *(_bits(one, lang) for one in scores.values())]
        rows.append([lang, tokens, *bits])
    headings = ["held-out text", "tokens/char", "bits/char: base", *scores]
    return make_table(headings, rows, title=HELD_OUT, align="right")


def _bits(scores: Scores, lang: str) -> str:
    bits = f"{scores.text[lang].model.bits_per_char:.2f}"
    retained = scores.retention.languages if scores.retention else {}
    return f"{bits}, {retained[lang].verdict}" if lang in retained else bits


def replies(before: Recitation, after: Recitation) -> Table:
    """Shows replies to trained questions, before and after."""
    rows = [
        [question, *(one_line(model.reply_to(question), _REPLY_LEN) for model in (before, after))] for question in SHOWN
    ]
    return make_table(["question", "base", "chat"], rows, title=REPLIES, show_lines=True)


def folders(folder: Path) -> Table:
    """Lists what the demo has written.

    Args:
        folder: Folder of the demo.
    """
    rows = (
        ("chat", "the final model; transformers can load it"),
        ("evaluation/report.html", "its evaluation"),
        ("zero_test/report.html, pretrained_test/report.html", "Zero and the pretrained model compared with the base"),
        ("pretrain, sft", "the runs: curves, sampled answers, checkpoints"),
        ("base, tokenizer, zero, pretrained", "intermediate results"),
    )
    cells = [(", ".join(str(folder / part) for part in parts.split(", ")), description) for parts, description in rows]
    return make_table(["", ""], cells, frame=False)
