import pytest

from glmja.cli.command import run_command
from glmja.cli.ending import Ending, show_ending


def test_the_last_lines_say_what_is_where_how_long_it_took_and_what_comes_next(capsys):
    ending = Ending("model in a b", "evaluate", {"model": "a b", "output": "FOLDER"})
    show_ending(ending, 3661.4, "python -m glmja.evaluate")
    assert capsys.readouterr().out == (
        "OK: model in a b, in 1:01:01\nnext: python -m glmja.evaluate --model 'a b' --output FOLDER\n"
    )


def test_warnings_come_before_what_was_done_and_take_the_ok_away(capsys):
    ending = Ending("run in a", "export", warnings=["x rose", "y fell"], others=["tensorboard --logdir a"])
    show_ending(ending, 2, "glmja export")
    assert capsys.readouterr().out.splitlines() == [
        "WARN: x rose",
        "WARN: y fell",
        "done: run in a, in 0:00:02",
        "next: glmja export",
        "next: tensorboard --logdir a",
    ]


def test_a_command_ends_with_these_lines_only_if_it_succeeds(capsys):
    def copy(output: str) -> str:
        """Copies.

        Args:
            output: New folder.
        """
        if output == "bad":
            raise ValueError("`output` is bad")
        return output

    def ending(values, returned):
        assert returned == values["output"]
        return Ending(f"copy in {values['output']}", "export", {"model": values["output"]})

    assert run_command(copy, ["--output", "there"], ending) == "there"
    assert capsys.readouterr().out.splitlines() == [
        "OK: copy in there, in 0:00:00",
        "next: python -m glmja.export --model there",
    ]
    with pytest.raises(SystemExit):
        run_command(copy, ["--output", "bad"], ending)
    assert capsys.readouterr().out == ""
