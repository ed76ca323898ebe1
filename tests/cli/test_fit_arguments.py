from pathlib import Path

import pytest
from jsonargparse import capture_parser

from glmja import fit
from glmja.cli.fit_arguments import GROUPS, USUAL_NAMES, check_fit_arguments
from tests.project.test_flags import in_full

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no configuration; give --config FILE, such as configs/sft.yaml (--help shows examples)"),
        (["--trainr.devices_=1"], "unknown flag --trainr.devices_; did you mean --trainer?"),
        (["--trainr.max_steps=1"], "unknown flag --trainr.max_steps; did you mean --trainer.max_steps?"),
        (["--optimizer.lr", "1"], "unknown flag --optimizer.lr; did you mean --model.optimizer.lr?"),
        (["--xyz"], "unknown flag --xyz; known are config, run_dir, ckpt_path, "),
        (["--lr=1e-4"], "unknown flag --lr; did you mean --model.optimizer.lr?"),
        (
            ["--learning-rate", "1"],
            "unknown flag --learning_rate; did you mean --model.optimizer.lr?",
        ),
        (["--config="], "--config is empty, perhaps from an unset variable of the shell; give a YAML file"),
        (["--max_stepp=1"], "unknown flag --max_stepp; did you mean --trainer.max_steps?"),
        (["--text_key", "x"], "unknown flag --text_key; did you mean --data.sources?"),
        (["--config", "gone.yaml"], "config: no such file: gone.yaml; give a YAML file, as in configs/"),
        (["-c", "twice.yaml"], "twice.yaml: the key 'a' occurs twice, in lines 1 and 2; keep one"),
        (["--config=empty.yaml"], "empty.yaml: the file is empty; write keys as in configs/, or leave the file out"),
    ],
)
def test_mistakes_are_reported_before_lightning_is_imported(args, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "twice.yaml").write_text("a: 1\na: 2\n")
    (tmp_path / "empty.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        check_fit_arguments(args, "glmja fit")
    assert capsys.readouterr().err.startswith(f"glmja fit: error: {message}")


@pytest.mark.parametrize(
    "args",
    [
        ["--config", f"{ROOT}/configs/sft.yaml", "--run-dir", "runs/x", "--trainer.callbacks+=x", "--print-config"],
        ["--model.help", "lit_modules.PackedPretraining"],
        ["--help_all"],
        ["--data", "lit_modules.X", "--seed-everything=-1", "--checkpoint.save-top-k", "-1"],
    ],
)
def test_other_command_lines_are_left_to_lightning(args):
    assert check_fit_arguments(args, "glmja fit") is None


def test_the_help_shows_what_a_command_line_begins_with(capsys):
    with pytest.raises(SystemExit, match="0"):
        check_fit_arguments(["--help"], "glmja fit")
    said = capsys.readouterr().out
    assert said.startswith("usage: glmja fit --config FILE") and "  glmja fit --config configs/sft.yaml" in said
    assert all(f"--{name}" in said for name in GROUPS)


def test_the_known_flags_are_those_of_the_whole_parser():
    parser = capture_parser(fit.main, [f"--config={ROOT}/configs/demo_pretrain.yaml"])
    keys = {key.partition(".")[0] for key, _ in parser.get_defaults().items()}
    assert keys | {"print_config", "help_all", "config", "callbacks"} == set(GROUPS)  # the last is trainer.callbacks


def test_what_a_usual_name_means_is_a_key_of_a_configuration():
    recipes = [[f"--config={ROOT}/configs/{name}.yaml"] for name in ("pretrain", "sft")]
    configs = [capture_parser(lambda: fit.main(recipe)).parse_args(recipe) for recipe in recipes]  # noqa: B023
    for name, key in USUAL_NAMES.items():
        assert any(in_full(key) in config for config in configs), name


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--model.lr=1", "model: Option 'lr' is not accepted; did you mean --model.optimizer.lr?"),
        ("--trainer.lr=1", "did you mean --model.optimizer.lr?"),
        ("--model.init_args.learning_rate=1", "did you mean --model.optimizer.lr?"),
        ("--data.seq_len=1", "did you mean --data.row_len?"),
        ("--data.zzz=1", "known are tokenizer_dir, sources, row_len, batch_size, tokens, epochs, …"),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_with_the_right_one(flag, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        fit.main([f"--config={ROOT}/configs/demo_pretrain.yaml", flag])
    line = capsys.readouterr().err.splitlines()[-1]
    assert message in line
    assert ("known" in message) == line.endswith("(--help_all lists all)")


def test_a_hint_is_given_once(capsys):
    with pytest.raises(SystemExit, match="2"):
        fit.main([f"--config={ROOT}/configs/demo_pretrain.yaml", "--data.sources.ja.wieght=2"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("Option 'wieght' is not accepted; did you mean weight?") and line.count("did you mean") == 1
