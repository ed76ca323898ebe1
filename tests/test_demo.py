import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from glmja import demo


def test_the_demo_goes_all_the_way(tmp_path):
    command = [sys.executable, "-m", "glmja.demo", "--output", str(tmp_path / "demo"), "--max_steps", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for said in ("python -m glmja.build_tokenizer", "premises of non-interference", "greedy equal", "val/ja/bits_per"):
        assert said in done.stdout
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {"base", "tokenizer", "zero", "token_store", "run"}
    AutoTokenizer.from_pretrained(tmp_path / "demo" / "zero")
    AutoModelForCausalLM.from_pretrained(tmp_path / "demo" / "zero")


def test_the_demo_does_not_overwrite_by_itself(tmp_path, capsys):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(SystemExit) as stop:
        demo.main(["--output", str(tmp_path)])
    assert stop.value.code == 2
    assert "exists and is not empty; give --overwrite true" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
