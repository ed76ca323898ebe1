import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from glmja.text.terminal import as_text, make_table, show

NAMES = ["m[v2]", "m[/x]", "[bold]m[/bold]", "a:car:b", "[link=x]", "\\[x]", "m[/]", "[@click]"]


def shown(part):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(part)
    return capture.get()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_printed_as_it_is_in_titles_headings_cells_and_lines(name, capsys):
    table = shown(make_table(["", name], [[name, name]], title=f"model in {name}"))
    assert table.count(name) == 4
    show(f"Report: {name}", style="bold")
    assert capsys.readouterr().out == f"Report: {name}\n"


@given(st.text())
def test_no_text_is_markup(text):
    assert as_text(text).spans == []
    shown(make_table([text], [[text]], title=text))


def test_formatted_text_keeps_its_style_and_control_characters_are_replaced():
    styled = Text("identical", style="green")
    assert as_text(styled) is styled
    assert as_text("a\x1b[31mb").plain == "a\ufffd[31mb"


def test_a_line_is_not_cut_where_a_table_is(capsys):
    show("x" * 300, make_table([""], [["y" * 300]]))
    out = capsys.readouterr().out
    assert "x" * 300 in out and "y" * 100 not in out


def test_a_table_without_a_frame_has_no_headings():
    assert shown(make_table(["h", "i"], [["a", "b"]], frame=False)).split() == ["a", "b"]


def test_numbers_are_aligned_right():
    assert "│   1 │" in shown(make_table(["", "n"], [["a", "1"], ["b", "100"]], align="right"))


# Modules of rich that read strings as markup; rich.text, rich.filesize and rich.box do not.
MARKUP = {"rich"} | {
    f"rich.{name}" for name in ["align", "columns", "console", "live", "logging", "markup", "panel", "progress"]
}
MARKUP |= {f"rich.{name}" for name in ["prompt", "status", "table", "tree"]}
ROOT = Path(__file__).parents[2]
MAY_USE_MARKUP = {"glmja/text/terminal.py", "glmja/files/progress.py"}


def runtime_uses(tree):
    """Names of rich's modules that code imports, but for `Table` as a type."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            called = {
                call.func.id for call in ast.walk(tree) if isinstance(call, ast.Call) and hasattr(call.func, "id")
            }
            yield from (node.module for alias in node.names if alias.name != "Table" or "Table" in called)
        elif isinstance(node, ast.Attribute) and node.attr in ("from_markup", "render_str", "add_row", "add_column"):
            yield "rich"


@pytest.mark.parametrize("package", ["glmja", "data_modules", "lit_modules", "callbacks"])
def test_only_the_module_of_the_terminal_gives_strings_to_rich(package):
    users = {
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*.py")
        if MARKUP & set(runtime_uses(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert users == {path for path in MAY_USE_MARKUP if path.startswith(f"{package}/")}
