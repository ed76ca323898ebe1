from rich.console import Console

from glmja.runs.ledger import Ledger

LEDGER = Ledger(
    "title", [{"source": "ja", "tokens": 1234, "share": 0.5}, {"source": "zh", "tokens": 5, "share": 0.25}], {"rows": 7}
)


def test_a_ledger_shows_a_column_for_each_source():
    assert LEDGER.markdown() == (
        "| source | ja | zh |\n| --- | --: | --: |\n| tokens | 1,234 | 5 |\n| share | 0.5000 | 0.2500 |\n\nrows 7"
    )
    console = Console(width=80)
    with console.capture() as captured:
        console.print(LEDGER.table(), LEDGER.summary())
    shown = captured.get()
    assert all(word in shown for word in ("1,234", "ja", "zh", "rows 7"))


def test_a_ledger_is_written_unchanged():
    assert LEDGER.as_dict() == {"sources": list(LEDGER.entries), "run": {"rows": 7}}
