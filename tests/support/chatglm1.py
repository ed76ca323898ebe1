"""Tiny random ChatGLM-6B models, and the reference material of the real one."""

import json
from pathlib import Path

import torch

from glmja.modeling.chatglm1 import ChatGLM1ForCausalLM
from glmja.modeling.chatglm1_config import ChatGLM1Config

MASK, GMASK, SOP, EOP, PAD = 90, 91, 94, 95, 3
TINY = {
    "vocab_size": 100, "hidden_size": 32, "num_layers": 3, "num_attention_heads": 4, "inner_hidden_size": 64,
    "max_sequence_length": 64, "mask_token_id": MASK, "gmask_token_id": GMASK, "bos_token_id": SOP,
    "eos_token_id": EOP, "pad_token_id": PAD,
}  # fmt: skip


def tiny_model(seed=0, **settings):
    """A model whose weights are large enough that each part of it matters."""
    torch.manual_seed(seed)
    model = ChatGLM1ForCausalLM(ChatGLM1Config(**TINY | settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.3)
    return model


def reference_model(folder: Path, **settings):
    """The reference model in fp32; `settings` are those of a prefix."""
    config = json.loads((folder / "config.json").read_text())
    known = {key: config[key] for key in TINY}
    model = ChatGLM1ForCausalLM(ChatGLM1Config(**known | settings)).eval()
    weights = {}
    for path in sorted(folder.glob("pytorch_model-*.bin")):
        weights |= torch.load(path, weights_only=True)
    if settings:
        kind = "projected" if settings.get("prefix_projection") else "plain"
        weights |= torch.load(folder / "ptuning" / f"{kind}.bin", weights_only=True)
    model.load_state_dict({name: w.float() for name, w in weights.items() if "inv_freq" not in name})
    return model
