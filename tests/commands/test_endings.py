"""Every command ends with what it has done, how long that took, whether all is well, and what comes next."""

import io
import re

import pytest

from glmja import __main__ as glmja
from glmja import build_tokenizer, chat, convert, evaluate, export, fit, resize_embeddings
from glmja.twin import build as twin
from tests.support.demo_run import args

LAST = r"^(OK|done): (.+), in \d:\d\d:\d\d"
ELSEWHERE = {"demo"}  # tests/commands/test_demo.py


@pytest.fixture(scope="module")
def trained(zero_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ending")
    short = {"trainer.max_steps": 1, "trainer.callbacks": "[]", "trainer.accumulate_grad_batches": 1}
    fit.main(args(zero_dir, folder, "demo_sft", **short))
    return folder / "run"


def command_lines(name, world, out):
    """Returns a short run of a command, the words about what is where, and how its next command begins."""
    base, tokenizer, zero, run = (str(folder) for folder in world)
    text, few = str(twin.text_file("ja")), ("--max_new_tokens", "2")
    return {
        "build-tokenizer": (
            build_tokenizer.main, ["--base", base, "--corpus", text, "--num_new_pieces", "20", "--output", out],
            f"tokenizer in {out}", f"resize_embeddings --base {base} --tokenizer {out} --output FOLDER",
        ),
        "resize-embeddings": (
            resize_embeddings.main, ["--base", base, "--tokenizer", tokenizer, "--output", out],
            f"Zero model in {out}", f"fit --config configs/pretrain.yaml --model.model_dir {out}",
        ),
        "convert": (
            convert.main, ["--model", zero, "--output", out, "--format", "chatglm"],
            f"model in {out}", f"evaluate --model {out} --output FOLDER",
        ),
        "export": (
            export.main, ["--checkpoint", run, "--output", out],
            f"model in {out}", f"evaluate --model {out} --baseline FOLDER --output FOLDER",
        ),
        "evaluate": (
            evaluate.main, ["--model", zero, "--output", out, *few],
            f"report in {out}/report.html", f"chat --model {zero}",
        ),
        "fit": (
            fit.main, ["--config", f"{run}/config.yaml", "--run_dir", out],
            f"step 1 saved in {out}", f"export --checkpoint {out} --output FOLDER",
        ),
        "chat": (chat.main, ["--model", zero, *few], "2 messages", None),
    }[name]  # fmt: skip


@pytest.mark.usefixtures("forked_check")
@pytest.mark.parametrize("name", sorted(set(glmja.COMMANDS) - ELSEWHERE))
def test_every_command_ends_with_what_it_has_done_and_what_comes_next(
    name, base_dir, tokenizer_dir, zero_dir, trained, tmp_path, capsys, monkeypatch
):
    world, out = (base_dir, tokenizer_dir, zero_dir, trained), str(tmp_path / "out")
    main, arguments, done, following = command_lines(name, world, out)
    monkeypatch.setattr("sys.stdin", io.StringIO("你好\n"))
    main(arguments)
    said = capsys.readouterr()
    lines = (said.err if name == "chat" else said.out).splitlines()
    (end,) = [i for i, line in enumerate(lines) if re.match(LAST, line)]
    warned = any(line.startswith("WARN: ") for line in lines)
    assert re.match(LAST, lines[end]).groups() == ("done" if warned else "OK", done)
    assert lines[end + 1 :] == ([f"next: python -m glmja.{following}"] if following else [])


def test_what_is_not_well_is_said_at_the_end(base_dir, tokenizer_dir, tmp_path, capsys):
    resize_embeddings.main(
        ["--base", str(base_dir), "--tokenizer", str(tokenizer_dir), "--output", str(tmp_path / "zero"),
         "--check_greedy", "false"]
    )  # fmt: skip
    *_, warning, done, _ = capsys.readouterr().out.splitlines()
    assert warning == "WARN: base and Zero were not asked anything (--check_greedy false)"
    assert done.startswith(f"done: Zero model in {tmp_path}/zero, in ")
