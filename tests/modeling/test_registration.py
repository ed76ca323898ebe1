"""ChatGLM-6B in the auto classes of transformers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from glmja.modeling.registration import _AfterLibrary
from tests.support.chatglm1 import tiny_model
from tests.support.daily import drawn

ROOT = Path(__file__).parents[2]
GLMJA_FIRST = "import glmja, sys; assert 'transformers' not in sys.modules; import transformers"
SOUGHT_BEFORE = "import glmja, importlib.util; assert importlib.util.find_spec('transformers'); import transformers"
GLMJA_LAST = "import transformers, glmja"


ORDERS = {"first": GLMJA_FIRST, "sought before": SOUGHT_BEFORE, "last": GLMJA_LAST}


@pytest.mark.parametrize(("order",), drawn("imports", [(order,) for order in ORDERS], 1))
def test_the_auto_classes_know_the_model_after_import_glmja(order, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    program = (
        f"{ORDERS[order]}; import json, sys; folder = sys.argv[1]\n"
        "config = transformers.AutoConfig.from_pretrained(folder)\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(folder)\n"
        "print(json.dumps([type(config).__name__, type(model).__name__]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["ChatGLM1Config", "ChatGLM1ForCausalLM"]


def test_other_modules_are_found_as_before():
    assert _AfterLibrary().find_spec("json", None) is None
