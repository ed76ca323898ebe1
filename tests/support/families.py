"""Model folders of one family or another, by the files that distinguish them."""

import json
from pathlib import Path

# what the tokenizer code of the two families says, as far as glmja reads it
CHATGLM2_CODE = 'special_tokens = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]\n'
CHATGLM3_CODE = """role_special_tokens = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
special_tokens = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"] + role_special_tokens
"""


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def without_evidence(folder: Path) -> Path:
    """Leaves weights, config and `tokenizer.model`: nothing that distinguishes ChatGLM2 and ChatGLM3."""
    (folder / "tokenizer_config.json").unlink(missing_ok=True)
    return folder


def as_chatglm2(folder: Path) -> Path:
    """Makes a copy of the twin a ChatGLM2."""
    without_evidence(folder)
    (folder / "tokenization_chatglm.py").write_text(CHATGLM2_CODE)
    return folder
