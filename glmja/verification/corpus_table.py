"""Tables of the content of a corpus, and of the tokens that the pieces learned from it save."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from glmja.text.corpus_survey import CorpusSurvey
from glmja.text.terminal import make_table
from glmja.tokenization.learning_curve import BLOCK, LearningCurve

_MAX_ROWS = 16
_FEW_MARKS = 0.01  # of a line
_FEW_DECOMPOSED = 0.001  # of the characters


def corpus_table(survey: CorpusSurvey, parameters: dict[str, str]) -> Table:
    """Returns a table of the counts of a corpus.

    Args:
        survey: The counts.
        parameters: How the command calls the parameters `strip_aozora` and `normalize`.
    """
    characters = max(1, survey.characters)
    rows: list[tuple[str, int, float | None, str]] = [
        ("documents", survey.documents, None, ""),
        ("… repeated", survey.repeated_documents, survey.repeated_documents / max(1, survey.documents), ""),
        ("lines", survey.lines, None, ""),
        ("… repeated", survey.repeated_lines, survey.repeated_share, _once(survey)),
        ("readings and notes of Aozora", survey.aozora_marks, None, _aozora(survey, parameters["strip_aozora"])),
        ("wiki markup", survey.wiki_marks, None, _if_any(survey.wiki_marks, "if it is no code, remove it first")),
        (
            "HTML tags and entities",
            survey.html_marks,
            None,
            _if_any(survey.html_marks, "if they are no code, remove them first"),
        ),
        (
            "decomposed characters (NFD)",
            survey.decomposed_characters,
            survey.decomposed_characters / characters,
            _composed(survey, parameters["normalize"]),
        ),
    ]
    cells = [[what, f"{count:,}", _percent(share), advice] for what, count, share, advice in rows]
    cells += [[kind, "", _percent(share), ""] for kind, share in survey.scripts().items()]
    num_columns = 4 if any(advice for *_, advice in cells) else 3
    headings = ["corpus", "count", "share", "advice"][:num_columns]
    return make_table(headings, [row[:num_columns] for row in cells], title="The corpus before learning")


def corpus_warnings(
    counts: Mapping[str, float], strip_aozora: bool, compose: bool, parameters: dict[str, str]
) -> list[str]:
    """Returns sentences about content of a corpus that is likely to have become pieces.

    Args:
        counts: The counts of a corpus, as `CorpusSurvey.as_json` returns them.
        strip_aozora: Whether readings and notes of Aozora were left out.
        compose: Whether decomposed characters were composed.
        parameters: How the command calls the parameters `strip_aozora` and `normalize`.
    """
    found = []
    if counts["aozora_marks"] > counts["lines"] * _FEW_MARKS and not strip_aozora:
        found.append(
            f"the corpus has {counts['aozora_marks']:,} readings and notes of Aozora; set {parameters['strip_aozora']}"
        )
    if counts["decomposed_characters"] > counts["characters"] * _FEW_DECOMPOSED and not compose:
        found.append(
            f"{counts['decomposed_characters']:,} characters of the corpus are decomposed (NFD), as macOS writes them; "
            f"set {parameters['normalize']} nfc"
        )
    return found


def curve_table(curve: LearningCurve) -> Table:
    """Returns a table of the tokens per character of the training text by number of pieces."""
    rows = curve.rows()
    shown = rows[:: -(-len(rows) // _MAX_ROWS)]
    shown += [] if shown[-1] is rows[-1] else rows[-1:]
    cells = [
        (f"{row['pieces']:,}", f"{row['tokens_per_character']:.4f}", _percent(row["gain_of_next"]) or "no more")
        for row in shown
    ]
    headings = ["pieces", "tokens/char", f"next {BLOCK:,} save"]
    return make_table(headings, cells, title="Pieces and tokens of the training text", align="right")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}".replace("%", " %")


def _if_any(count: int, advice: str) -> str:
    return advice if count else ""


def _once(survey: CorpusSurvey) -> str:
    done = "counted once; share of characters" if survey.once else "counted as often as they occur"
    return _if_any(survey.repeated_lines, done)


def _aozora(survey: CorpusSurvey, parameter: str) -> str:
    return _if_any(survey.aozora_marks, "left out" if survey.strip_markup else f"{parameter} leaves them out")


def _composed(survey: CorpusSurvey, parameter: str) -> str:
    return _if_any(survey.decomposed_characters, "composed" if survey.compose else f"{parameter} nfc composes them")
