import json
import os
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from glmja.demo import pipeline as demo


def test_the_demo_runs_to_the_end(tmp_path):
    command = [sys.executable, "-m", "glmja.demo", "--output", str(tmp_path / "demo"), "--pretrain_steps", "3",
               "--sft_steps", "2"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"})
    for text in (
        "python -m glmja.build_tokenizer",
        "conditions of the proof",
        "greedy equal",
        "answers identical to the baseline's, id by id: zh 2 of 2",
        "python -m glmja.evaluate",
        "retention",
        "> こんにちは。",
        "evaluation/report.html",
    ):
        assert text in done.stdout
    assert {p.name for p in (tmp_path / "demo").iterdir()} == set(demo.PARTS)
    assert {"scores.json", "report.html"} < {p.name for p in (tmp_path / "demo" / "evaluation").iterdir()}
    scores = json.loads((tmp_path / "demo" / "evaluation" / "scores.json").read_text())
    assert set(scores["generation"]) == {"code", "en", "ja", "zh"}
    assert set(scores["text"]) == {"en", "ja", "zh"}
    for model in ("zero", "pretrained", "chat"):
        AutoTokenizer.from_pretrained(tmp_path / "demo" / model)
        AutoModelForCausalLM.from_pretrained(tmp_path / "demo" / model)
    assert {"config.yaml", "ledger.json", "chats.jsonl"} < {p.name for p in (tmp_path / "demo" / "sft").iterdir()}


def test_the_demo_does_not_overwrite_without_the_flag(tmp_path, capsys):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(SystemExit) as stop:
        demo.main(["--output", str(tmp_path)])
    assert stop.value.code == 2
    assert "exists and is not empty; set --overwrite to replace it" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
