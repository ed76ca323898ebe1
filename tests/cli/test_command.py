import sys

import pytest

from glmja.cli.command import command_line, program, run_command, with_flags


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("/usr/bin/glmja", "glmja resize-embeddings"),
        ("C:\\bin\\glmja.exe" if sys.platform == "win32" else "/bin/glmja.exe", "glmja resize-embeddings"),
        ("/src/glmja/__main__.py", "python -m glmja resize-embeddings"),
        ("/src/glmja/resize_embeddings.py", "python -m glmja.resize_embeddings"),
        ("/usr/bin/pytest", "python -m glmja.resize_embeddings"),
    ],
)
def test_a_command_is_named_as_it_was_called(called, name, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    assert program("resize_embeddings") == name


def test_parameters_in_backticks_become_flags_of_the_command():
    message = "set `overwrite`, `text_key` or `other`, or run `python -m x`"
    flags = {"overwrite": "--overwrite", "text_key": "data.text_key"}
    assert with_flags(message, flags) == "set --overwrite, data.text_key or `other`, or run `python -m x`"


def mix(amount: int, names: list[str] = [], stir: bool = False) -> tuple[int, list[str], bool]:  # noqa: B006
    """Mixes things.

    Args:
        amount: How much, in grams.
        names: What.
        stir: Stir at the end.
    """
    if amount < 0:
        raise ValueError("`amount` must not be negative")
    return amount, names, stir


def test_the_signature_is_the_command_line(capsys):
    assert run_command(mix, ["--amount", "3"]) == (3, [], False)
    assert run_command(mix, ["--stir", "--names", "a", "b", "--amount=3", "--names", "c"]) == (3, ["a", "b", "c"], True)
    with pytest.raises(SystemExit, match="0"):
        run_command(mix, ["--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: python -m glmja.mix --amount AMOUNT [OPTION ...]\n\nMixes things.\n")
    assert "How much, in grams. (required, type: int)" in said and "--names NAMES [NAMES ...]" in said


def test_a_message_shows_the_flag_of_the_parameter(capsys):
    with pytest.raises(SystemExit, match="2"):
        run_command(mix, ["--amount", "-3"])
    assert capsys.readouterr().err == "python -m glmja.mix: error: --amount must not be negative\n"


def test_a_configuration_file_can_hold_every_flag(tmp_path):
    (tmp_path / "mix.yaml").write_text("amount: 3\nnames: [a, b]\nstir: true\n")
    assert run_command(mix, ["--config", str(tmp_path / "mix.yaml")]) == (3, ["a", "b"], True)


def test_a_command_line_holds_the_values_that_are_not_defaults(monkeypatch):
    def resize(base: str, files: list[str] = [], check: bool = True, rows: int | None = None) -> None:  # noqa: B006
        """Does nothing."""

    monkeypatch.setattr(sys, "argv", ["pytest"])
    values = {"base": "my model", "files": ["ja=a b", "zh=c"], "check": False, "rows": None}
    assert (
        command_line(resize, values) == "python -m glmja.resize --base 'my model' --files 'ja=a b' zh=c --check false"
    )
    assert command_line(resize, {"base": "m", "files": [], "check": True, "rows": 3}) == (
        "python -m glmja.resize --base m --rows 3"
    )
