"""The Zero twin, taught a few conversations by heart, so that it answers in the format and ends its turns."""

import json
import shutil

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from glmja.conversation.rendering import render
from glmja.modeling.batch import IGNORE_INDEX
from glmja.modeling.loading import load_model
from glmja.tokenization.chat_template import TOOL_PROMPT
from glmja.tokenization.tokenizer import GLMTokenizer

TOOLS = [{"name": "get_weather"}]

HELLO = [
    {"role": "user", "content": "こんにちは"},
    {"role": "assistant", "content": "やあ、 😀 元気です。"},
    {"role": "user", "content": "もう一度"},
    {"role": "assistant", "content": "はい：\n\t[bold]𠮷[/bold]\x1b[31m。"},
]
WEATHER = [
    {"role": "system", "content": TOOL_PROMPT, "tools": TOOLS},
    {"role": "user", "content": "天気は？"},
    {"role": "assistant", "metadata": "get_weather", "content": "```python\ntool_call(city='東京')\n```"},
    {"role": "observation", "content": "晴れ"},
    {"role": "assistant", "content": "東京は晴れです。"},
]


def taught_folder(zero_dir, tmp_path_factory):
    """Makes the model once a session."""
    folder = tmp_path_factory.getbasetemp() / "taught"
    if not folder.exists():
        shutil.copytree(zero_dir, folder)
        save_file(teach(zero_dir).state_dict(), folder / "model.safetensors")
        (folder / "tools.json").write_text(json.dumps(TOOLS), encoding="utf-8")
    return folder


def teach(zero_dir):
    tokenizer, model = GLMTokenizer.load(zero_dir), load_model(zero_dir, torch.float32)
    rows = []
    for messages in (HELLO, WEATHER):
        ids, targets = render(messages, tokenizer)
        labels = [token_id if is_target else IGNORE_INDEX for token_id, is_target in zip(ids, targets, strict=True)]
        rows.append((torch.tensor([ids]), torch.tensor(labels)))
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=0.01), torch.tensor(9.0)
    while loss > 0.01:
        loss = sum(cross_entropy(model(ids).logits[0, :-1], labels[1:]) for ids, labels in rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model
