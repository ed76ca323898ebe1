"""LLaMA-Factory as a contender: it runs in an environment of its own, see `benchmarks/data/llamafactory_peer.py`."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.turns import Turn
from glmja.families.recognition import load_tokenizer
from glmja.modeling.loading import load_model
from glmja.tokenization.huggingface import save

SCRIPT = Path(__file__).with_name("llamafactory_sft_peer.py")


def write_for_transformers(scratch: Path) -> None:
    """Writes the tiny GLM as transformers reads it."""
    load_model(scratch / "model", torch.float32).save_pretrained(scratch / "glm")
    save(load_tokenizer(scratch / "model"), scratch / "glm")


def llama_factory(
    turn: Turn, scratch: Path, precision: str, python: Path, row_len: int, batch_size: int, tokens: int
) -> None:
    """Trains epochs with LLaMA-Factory in another process, which measures its own processor time.

    Its tokens are counted by `Conversations`, since its chat template adds others.
    """
    folder = scratch / "llamafactory"
    command = [str(python), str(SCRIPT), "--model", str(scratch / "glm"), "--chats",
               str(scratch / "chats.jsonl"), "--scratch", str(folder), "--row_len", str(row_len), "--batch_size",
               str(batch_size), *(["--bf16"] if precision == "bf16" else [])]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LLAMAFACTORY_VERBOSITY": "WARNING"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as peer:
        assert peer.stdin and peer.stdout

        def answer() -> dict[str, Any]:
            for line in peer.stdout or ():
                if line.startswith("{"):
                    found: dict[str, Any] = json.loads(line)
                    return found
            raise ChildProcessError("LLaMA-Factory ended")

        answer()
        turn.begin()
        while True:
            print(file=peer.stdin, flush=True)
            found = answer()
            turn.end(cpu=found["cpu"], tokens=tokens, computed=found["computed"], targets=0, loss=math.nan)
