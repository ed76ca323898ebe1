import re
from dataclasses import replace

import pytest

from glmja.evaluation.answers import Answer, TokenizedSample
from glmja.evaluation.new_piece_scores import NewPieces, NewPieceUse, NewRows, RowScores
from glmja.evaluation.provenance import SourceFile
from glmja.evaluation.report import render
from glmja.evaluation.scores import (
    ModelInfo,
    Quality,
    QuestionComparison,
    ReplyComparison,
    ReplyScores,
    Scores,
    TextComparison,
    TextScores,
)
from glmja.evaluation.tables import tables
from tests.support.provenance import MADE

QUALITY = {"empty": 0, "blank": 1, "looping": 2, "repetition": 0.1, "script_purity": 0.9, "latin": 0.05,
           "simplified_only": None, "stopped": 0.75}  # fmt: skip
REPLIES = ReplyScores(bleu4=None, rouge1=1.5, rouge2=2.5, rougeL=3.5, exact_match=44.25, **QUALITY)


def scores(**values):
    info = ModelInfo("m[/x]<b>", "b", "f" * 64)
    generation = {
        "ja": ReplyComparison(
            references=4,
            left_out={"too long": 2},
            shortened=3,
            signatures={"bleu4": "tok:<x>"},
            model=REPLIES,
        )
    }
    questions = {"zh": QuestionComparison(2, Quality(**QUALITY | {"stopped": 0.5, "blank": 0, "looping": 0}))}
    given = {"glmja": "0", "text": {}, "retention": None, "generation": generation, "questions": questions}
    given |= {"model": info, "baseline": None, "segmentation": "words", "text_signature": "-", "provenance": MADE}
    return Scores(**given | values)


def answer(lang="ja", reference="はい", text="いいえ"):
    return Answer(lang=lang, prompt="問<", reference=reference, model=text, prompt_tokens={"model": 1})


def text_of(page):
    return " ".join(re.sub(r"<style>.*</style>|<[^>]+>", " ", page, flags=re.S).split())


def test_the_page_shows_figures_signatures_and_skipped_tasks():
    page = text_of(render(scores(), [answer(), answer(reference=None)], [], {}))
    assert "references ROUGE-1 ROUGE-2 ROUGE-L exact match ja model 4 1.50 2.50 3.50 44.25 language" in page
    assert "repetition script purity Latin ended ja model 0.100 0.900 0.050 0.750 BLEU" in page
    assert "ja bleu4: tok:&lt;x&gt;" in page
    assert "ja: 2 left out: too long" in page and "ja: 3 without their oldest turns, to fit" in page
    assert "Answers that ended by themselves: zh model 50 %" in page
    assert "m[/x]&lt;b&gt;" in page and "問&lt;" in page


def test_the_page_shows_five_answers_of_each_language():
    answers = [answer(lang, text=f"{lang}{i}!") for lang in ("ja", "zh") for i in range(7)]
    page = text_of(render(scores(), answers, [], {}))
    assert all((f"{lang}{i}!" in page) == (i < 5) for lang in ("ja", "zh") for i in range(7))


def test_the_page_has_only_the_parts_that_were_measured():
    page = render(scores(generation={}, questions=None), [], [], {})
    assert re.findall("<h2>(.*?)</h2>", page) == ["Provenance"]
    shown = text_of(page)
    assert shown.startswith("m[/x]&lt;b&gt;: evaluation m[/x]&lt;b&gt; 2026-01-02T03:04:05+00:00 · glmja 0 Provenance")


def test_sections_follow_the_verdict_with_curves_first_and_provenance_last():
    answers = [answer(), answer(reference=None)]
    samples = [TokenizedSample("ja", "あ", {"model": ["·E3", "·81", "·82"]})]
    text = {"ja": TextComparison(1, 2, TextScores(1.0, 0.5))}
    page = render(scores(text=text), answers, samples, {"run": {"train/loss": [(1, 2.0)]}})
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Failed answers", "Training curves", "Likelihood of held-out text", "Eight questions, greedy decoding",
        "Answers compared with references", "Tokenization of a sample", "Provenance",
    ]  # fmt: skip


def test_the_page_says_what_made_the_figures_and_from_which_samples():
    shown = text_of(render(scores(), [], [], {}))
    assert "python -m glmja.evaluate --model &lt;m&gt;" in shown
    assert "2026-01-02T03:04:05+00:00 · glmja 0 · torch 1 · cpu · weights in float32" in shown
    assert f"model m[/x]&lt;b&gt; {'f' * 16} b" in shown
    assert f"ja text 2 1,234 {'c' * 16} &lt;ja&gt;.jsonl, 5,678 bytes, {'d' * 16}" in shown


def test_only_the_first_files_of_a_language_are_named():
    files = [SourceFile(f"part{i}.jsonl", 1, None) for i in range(9)]
    made = replace(MADE, samples=[replace(MADE.samples[0], files=files)])
    shown = text_of(render(scores(provenance=made), [], [], {}))
    assert "part4.jsonl, 1 bytes … 4 more in scores.json" in shown and "part5" not in shown


def test_languages_have_one_order():
    questions = [answer(lang, reference=None, text=f"{lang}!") for lang in ("zh", "en", "ja")]
    shown = text_of(render(scores(), questions, [], {}))
    assert shown.index("ja!") < shown.index("zh!") < shown.index("en!")


@pytest.mark.parametrize(("piece", "explained"), [("·E3", True), ("あ", False)])
def test_bytes_are_explained_where_a_sample_has_them(piece, explained):
    page = render(scores(), [], [TokenizedSample("ja", "あ", {"model": [piece]})], {})
    assert ("is a byte of a character that has no token of its own" in page) == explained
    assert ('class="bytes">' in page) == explained


def test_curves_of_runs_are_plotted():
    page = render(scores(), [], [], {"run<": {"train/loss": [(1, 2.0), (2, 1.0)], "val/ja/bits_per_char": [(1, 3.0)]}})
    assert page.count('<img alt="run&lt;: ') == 2 and "run&lt;: held-out text" in page


def test_the_drift_that_a_run_has_recorded_is_plotted_over_its_steps():
    drift = {"val/zh/drift": [(10, 0.01), (20, 0.02)], "val/en/drift": [(10, 0.0), (20, 0.001)]}
    page = render(scores(), [], [], {"run": drift})
    assert re.findall('<img alt="(.*?)"', page) == ["run: drift since before training"]
    changed = render(scores(), [], [], {"run": drift | {"val/en/drift": [(10, 0.0), (20, 0.002)]}})
    assert page != changed


def test_the_terminal_shows_the_same_figures_and_what_is_missing(capsys):
    shown = tables(scores(), [answer(reference=None)])
    lines = [str(part) for part in shown if not hasattr(part, "columns")]
    assert "answers that ended by themselves: zh model 50%" in lines
    assert "ja bleu4: tok:<x>" in lines
    assert "ja: no BLEU-4, because no reference has four segments; see exact" in lines
    assert "ja: no BLEU and chrF of sacrebleu; it needs: pip install 'sacrebleu[ja]'" in lines
    assert [str(part.title) for part in shown if hasattr(part, "columns")] == [
        "Failed answers", "Eight questions, greedy decoding", "Answers compared with references",
        "Quality of these answers",
    ]  # fmt: skip


def test_failed_answers_are_shown_first_and_counted_by_kind():
    table, *_ = tables(scores(), [answer(reference=None)])
    assert [list(column.cells)[1].plain for column in table.columns] == [
        "ja conversations",
        "model",
        "4",
        "0",
        "1",
        "2",
    ]
    page = text_of(render(scores(), [answer()], [], {}))
    assert page.index("ja conversations model 4 0 1 2") < page.index("Answers compared with references")


def test_a_line_says_that_all_answers_have_content():
    quality = Quality(**QUALITY | {"blank": 0, "looping": 0})
    given = scores(generation={}, questions={"zh": QuestionComparison(2, quality)})
    assert str(tables(given, [])[0]) == "none of 2 answers is empty, blank or looping"
    assert "None of 2 answers is empty, blank or looping." in text_of(render(given, [], [], {}))


NEW_PIECES = NewPieces(
    pieces=1600,
    rows={"head": NewRows(RowScores(1.25, 31.4), RowScores(2.5, 62.6))},
    text={
        "ja": NewPieceUse(positions=1000, targets=400, on_top=7, smallest_lead=-1.5, mass=0.125, median_rank=2100.0),
        "zh": NewPieceUse(positions=500, targets=0, on_top=0, smallest_lead=0.5, mass=0.01, median_rank=None),
    },
    greedy={"ja": 0.25},
)


def test_the_page_shows_how_new_pieces_are_used():
    page = text_of(render(scores(new_pieces=NEW_PIECES), [], [], {}))
    assert "ja 1,000 400 2,100 12.50 % 7 25.0 % zh 500 0 – 1.00 % 0 – rows" in page
    assert "head 1.25 2.50 31 63 1,600 pieces." in page


def test_the_terminal_shows_how_new_pieces_are_used():
    shown = {str(part.title): part for part in tables(scores(new_pieces=NEW_PIECES), []) if hasattr(part, "columns")}
    cells = {
        title: [[str(cell) for cell in column.cells] for column in table.columns] for title, table in shown.items()
    }
    assert cells["1,600 new pieces in text"] == [
        ["ja", "zh"], ["400 of 1,000", "0 of 500"], ["2,100", "–"], ["12.50%", "1.00%"], ["7", "0"], ["25.0%", "–"]
    ]  # fmt: skip
    assert cells["Rows of the new pieces"] == [["head"], ["1.25"], ["2.50"], ["31"], ["63"]]
