import re

import pytest

from glmja.modeling.model_card import converted_card, export_card
from glmja.runs.ledger import Ledger
from glmja.text.markdown import markdown_code, markdown_row, markdown_text

NAMES = ["a|b", "a\nb", "`x`", "[link](x)", "<b>bold</b>", "*", "\\|", "&amp;", "日本語"]


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_is_one_line_and_ends_where_its_text_does(name):
    row = markdown_row([name, 3])
    assert "\n" not in row
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3  # bars that are not escaped
    assert markdown_text(name).replace("\\", "") == " ".join(name.split()).replace("\\", "")


@pytest.mark.parametrize(("text", "code"), [("x", "`x`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```"), ("a\n", "`a`")])
def test_code_is_fenced_by_more_backticks_than_it_has(text, code):
    assert markdown_code(text) == code


@pytest.mark.parametrize("name", NAMES)
def test_names_of_sources_runs_and_models_do_not_break_tables(name):
    ledger = Ledger("read", [{"source": name, "tokens": 3}, {"source": "b", "tokens": 4}], {})
    report = {"format": "glm", "step": 1, "run": name, "model": name, "ledger": ledger.as_dict(), "validation": None}
    for page in (ledger.markdown(), export_card(report), converted_card(name, "glm", "float16", {"a": name})):
        for table in re.findall(r"(?:^\|.*\n?)+", page, re.MULTILINE):
            bars = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()]
            assert len(set(bars)) == 1, table
