"""`fit --preview` shows the first example of each source, trains nothing and leaves nothing."""

import json

import pytest

from glmja import fit
from glmja.twin.build import LANGUAGES
from lit_modules.zero2 import ZeRO2
from tests.commands.test_fit import ROOT, run_args

CHATS = [
    {"messages": [{"role": "user", "content": "駅は"}, {"role": "assistant", "content": "右です"}]},
    {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
]


def chat_args(zero_dir, folder, records):
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return [
        f"--config={ROOT}/configs/demo_sft.yaml",
        f"--run_dir={folder / 'run'}",
        f"--model.init_args.model_dir={zero_dir}",
        f"--data.init_args.cache_dir={folder / 'cache'}",
        f"--data.init_args.sources={json.dumps([{'name': 'chats', 'lang': 'all', 'files': [str(path)]}])}",
        "--preview",
    ]


def test_the_first_conversation_is_shown_with_its_target_tokens_marked(zero_dir, tmp_path, capsys):
    trainer = fit.main(chat_args(zero_dir, tmp_path, CHATS))
    out = capsys.readouterr().out
    assert trainer.global_step == 0
    assert "駅は" in out and "⟦" in out
    assert "右です" in out[out.index("⟦") : out.index("⟧")]
    assert "駅は" not in out[out.index("⟦") : out.index("⟧")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chats.jsonl"]


def test_a_terminal_gets_the_target_tokens_in_green(zero_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    fit.main(chat_args(zero_dir, tmp_path, CHATS))
    out = capsys.readouterr().out
    assert "\x1b[32m" in out and "⟦" not in out


def test_of_documents_the_first_of_each_source_is_shown(zero_dir, tmp_path, capsys):
    fit.main([*run_args(zero_dir, tmp_path), "--preview"])
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines() if "of them target tokens" in line] == list(LANGUAGES)
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


def test_a_source_without_an_example_is_refused(zero_dir, tmp_path, capsys):
    with pytest.raises(SystemExit, match="3"):
        fit.main(chat_args(zero_dir, tmp_path, [{"text": "x"}]))
    assert "source 'chats' has no conversation with target tokens: " in capsys.readouterr().err


@pytest.mark.parametrize(("more", "offloads"), [([], False), (["--trainer.strategy.offload_optimizer", "true"], True)])
def test_zero2_can_be_given_by_its_name_alone(zero_dir, tmp_path, more, offloads):
    args = chat_args(zero_dir, tmp_path, CHATS)
    trainer = fit.main([*args, "--trainer.accelerator=cpu", "--trainer.strategy", "lit_modules.ZeRO2", *more])
    assert isinstance(trainer.strategy, ZeRO2)
    assert ("offload_optimizer" in trainer.strategy.config["zero_optimization"]) == offloads
