import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from glmja.demo import commands, results
from glmja.demo import pipeline as demo
from glmja.demo.texts import read_messages, split_texts
from glmja.tokenization.vocabulary import contains_distinguishing
from glmja.twin.build import text_file
from tests.support.programs import command_line

ROOT = Path(__file__).parents[2]
COMMANDS = [value for name, value in vars(commands).items() if name.isupper()]  # in the order of the pipeline


def run(folder, *more):
    """Runs the demo; returns its lines on stdout and stderr."""
    command = [sys.executable, "-m", "glmja.demo", "--output", str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "1000"})
    return done.stdout, done.stderr


def recited(stdout):
    """Returns how many trained questions each model answered word for word, and how many were asked, by language."""
    lines = re.findall(r"^memorised, trained questions answered word for word: (.*)$", stdout, re.MULTILINE)
    found = [{lang: (int(n), int(total)) for lang, n, total in re.findall(r"(\w+) (\d+) of (\d+)", x)} for x in lines]
    return dict(zip(("base", "zero", "pretrained", "chat"), found, strict=True))


def replies(text):
    """Returns the replies of base and final model in the table at the end of the demo, by question, without spaces."""
    below = re.split(r"questions\s+that\s+were\s+trained\s+on\s+\(memorised\)", text)[1]
    rows = below.split("└")[0].split("┡")[1].split("├")
    lines = [[line.split("│")[1:-1] for line in row.split("\n") if line.startswith("│")] for row in rows]
    cells = [["".join("".join(parts).split()) for parts in zip(*row, strict=True)] for row in lines]
    return {question: (before, after) for question, before, after in cells}


def without_spaces(text):
    return "".join(text.split())


def check_replies(text):
    """Asserts that the final model answers as it was taught, and the base, too, unless the question is Japanese."""
    lines = text_file("conversations").read_text(encoding="utf-8").splitlines()
    messages = [json.loads(line)["messages"] for line in lines]
    answers = {without_spaces(one[0]["content"]): without_spaces(one[-1]["content"]) for one in messages}
    shown = replies(text)
    assert list(shown) == [without_spaces(question) for question in results.SHOWN]
    for question, (before, after) in shown.items():
        assert after == answers[question]
        assert (before == after) is not contains_distinguishing(question, "kana")


def test_the_demo_runs_to_the_end(tmp_path):
    flags = ["--output", tmp_path / "demo", "--teach_steps=4", "--pretrain_steps=3", "--sft_steps=2"]
    done = command_line.run(tmp_path, "tests.support.programs.short_demo", flags, environment={"COLUMNS": "1000"})
    stdout, stderr = done.stdout, done.stderr
    assert done.returncode == 0, stderr
    for command in COMMANDS:
        assert f"$ {command}\n" in stdout
    ends = re.findall(r"^(?:OK|done): (\w+).*, in \d:\d\d:\d\d\nnext: (?:python -m glmja\.)?(\w+) ", stdout, re.M)
    assert ends == [
        ("tokenizer", "resize_embeddings"), ("Zero", "fit"), ("report", "chat"), ("step", "export"),
        ("model", "evaluate"), ("report", "chat"), ("step", "export"), ("model", "evaluate"), ("report", "chat"),
        ("all", "chat"),
    ]  # fmt: skip
    assert stdout.endswith(
        f"next: python -m glmja.chat --model {tmp_path}/demo/chat\nnext: tensorboard --logdir {tmp_path}/demo\n"
    )
    for text in ("conditions of the proof", "greedy equal", "retention", "pretrained_test/report.html"):
        assert text in stdout
    assert not re.search("Warning|Seed|seed|trust_remote_code|it/s|GPU|Trainer.fit", stderr), stderr
    assert {p.name for p in (tmp_path / "demo").iterdir()} == set(demo.PARTS)
    assert {"scores.json", "report.html"} < {p.name for p in (tmp_path / "demo" / "evaluation").iterdir()}
    scores = json.loads((tmp_path / "demo" / "evaluation" / "scores.json").read_text())
    assert set(scores["generation"]) == {"ja"}
    assert set(scores["text"]) == {"en", "ja", "zh"}
    for model in ("zero", "pretrained", "chat"):
        AutoTokenizer.from_pretrained(tmp_path / "demo" / model)
        AutoModelForCausalLM.from_pretrained(tmp_path / "demo" / model)
    assert {"config.yaml", "ledger.json", "chats.jsonl"} < {p.name for p in (tmp_path / "demo" / "sft").iterdir()}
    (same,) = re.findall(
        r"questions without Japanese identical to the base's, id by id: zh (\d+) of (\d+), en (\d+) of (\d+)$",
        stdout,
        re.M,
    )
    assert (same[0], same[2]) == (same[1], same[3])
    assert list(replies(stdout)) == [without_spaces(question) for question in results.SHOWN]


@pytest.mark.slow
def test_the_models_of_the_demo_answer_what_they_were_taught(tmp_path):
    stdout, _ = run(tmp_path / "demo")
    found = recited(stdout)
    for model in ("base", "zero", "pretrained", "chat"):
        for lang in ("zh", "en"):
            exact, total = found[model][lang]
            assert exact >= 0.9 * total > 10, (model, lang)
    assert found["base"]["ja"][0] == 0
    assert found["chat"]["ja"][0] >= 0.9 * found["chat"]["ja"][1]
    check_replies(stdout)


@pytest.mark.slow
def test_the_conversations_of_the_base_survive_pretraining_at_a_high_learning_rate(tmp_path):
    stdout, _ = run(tmp_path / "demo", "--pretrain_lr", "2e-3", "--sft_steps", "1")
    found = recited(stdout)
    for model in ("zero", "pretrained"):
        for lang in ("zh", "en"):
            assert found[model][lang][0] >= 0.9 * found[model][lang][1]


def test_the_questions_at_the_end_of_the_demo_are_trained_on(tmp_path):
    texts = split_texts(tmp_path)
    trained = {message for split in texts.chats.values() for message in read_messages(split.train)}
    assert set(results.SHOWN) <= trained


def test_the_parts_of_the_texts_are_disjoint_and_complete(tmp_path):
    texts = split_texts(tmp_path)
    for lang, split in texts.prose.items():
        parts = [Path(path).read_text(encoding="utf-8").splitlines() for path in (split.train, split.held_out)]
        train, held_out = ([json.loads(line)["text"] for line in part] for part in parts)
        shipped = [json.loads(line)["text"] for line in text_file(lang).read_text(encoding="utf-8").splitlines()]
        assert Counter(x for text in train + held_out for x in text.split("\n\n")) == Counter(
            x for text in shipped for x in text.split("\n\n")
        )
        assert len(held_out) >= 20  # of which a verdict on retention needs as many
        assert not set(held_out) & {x for text in train for x in text.split("\n\n")}
    paths = [path for split in texts.chats.values() for path in (split.train, split.held_out)]
    lines = text_file("conversations").read_text(encoding="utf-8").splitlines()
    shipped = [message["content"] for line in lines for message in json.loads(line)["messages"]]
    assert sorted(content for path in paths for content in read_messages(path)) == sorted(shipped)


def test_the_commands_of_the_demo_are_those_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace(" \\\n    ", " ")
    for command in COMMANDS:
        assert command in readme
    pipeline = readme.split("```bash\n")[1].split("```")[0]
    steps = [line for line in pipeline.splitlines() if line.startswith("python -m glmja.")]
    shown = [command for command in COMMANDS if command != commands.EVALUATE_ZERO]
    assert steps == [*shown, "python -m glmja.chat --model models/chat"]


def test_the_readme_shows_the_end_of_the_demo():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    check_replies(readme)
    for title in (results.MEMORISED, results.HELD_OUT):
        assert title in readme


def test_the_demo_does_not_overwrite_without_the_flag(tmp_path, capsys):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(SystemExit) as stop:
        demo.main(["--output", str(tmp_path)])
    assert stop.value.code == 2
    assert "exists and is not empty; set --overwrite to replace it" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--teach_steps=0"], "error: --teach_steps 0 must be at least 1"),
        (["--pretrain-steps", "0"], "error: --pretrain_steps 0 must be at least 1"),
        (["--sft_steps=-1"], "error: --sft_steps -1 must be at least 1"),
        (["--pretrain_lr=0"], "error: --pretrain_lr 0.0 must be greater than 0"),
    ],
)
def test_numbers_out_of_range_are_refused_before_the_first_step(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        demo.main(["--output", str(tmp_path / "demo"), *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
