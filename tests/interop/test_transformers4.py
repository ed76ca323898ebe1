"""Releases of transformers before 5, which vLLM and others build on, compute the same logits from a written folder."""

import os
import subprocess
import sys

import pytest
import torch

from glmja.modeling.loading import load_model
from tests.support.layouts import convert
from tests.weights.test_checkpoint import change_config

VERSION = "4.57.6"
IDS = list(range(5, 69))
PROGRAM = f"""
import sys, torch, transformers
assert transformers.__version__ == {VERSION!r}, transformers.__version__
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], torch_dtype=torch.float32).eval()
with torch.no_grad():
    torch.save(model(torch.tensor([{IDS}])).logits, sys.argv[2])
"""


@pytest.mark.slow
def test_a_long_context_model_has_the_same_logits_in_transformers_4(base_dir, tmp_path):
    base, folder, logits = tmp_path / "base", tmp_path / "glm", tmp_path / "logits.pt"
    base.mkdir()
    for path in base_dir.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    change_config(base, rope_ratio=50)
    convert(base, folder, "glm")
    older = tmp_path / "packages"  # before the installed packages on the path of the other process
    wanted = [f"transformers=={VERSION}", "tokenizers==0.22.2", "huggingface-hub<1.0"]
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(older), *wanted]
    if subprocess.run(install, check=False, capture_output=True).returncode:
        pytest.skip(f"transformers {VERSION} cannot be installed here")
    run = [sys.executable, "-c", PROGRAM, str(folder), str(logits)]
    subprocess.run(run, check=True, env=os.environ | {"PYTHONPATH": str(older), "HF_HUB_OFFLINE": "1"})
    with torch.no_grad():
        ours = load_model(folder, torch.float32)(torch.tensor([IDS])).logits
    torch.testing.assert_close(torch.load(logits, weights_only=True), ours, rtol=0, atol=1e-5)
