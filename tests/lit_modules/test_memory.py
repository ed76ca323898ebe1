import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import GlmConfig

from glmja.modeling.adapters import Lora, apply_tuning
from glmja.modeling.loading import empty_model
from glmja.modeling.loss import next_token_loss
from lit_modules.memory import activation_memory, layer_activations

CONFIG = GlmConfig(
    vocab_size=512, hidden_size=512, intermediate_size=1712, num_hidden_layers=3, num_attention_heads=8,
    num_key_value_heads=2, head_dim=64, attention_bias=True, pad_token_id=0,
)  # fmt: skip
TOKENS = 256


def kept(recompute):
    """The bytes that autograd keeps for the backward pass of the layers, without parameters."""
    model = empty_model(CONFIG).to_empty(device="cpu").bfloat16()
    model = apply_tuning(model, "lora", "full", Lora(rank=2, alpha=4), [])
    if recompute:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in storages:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        hidden = model.train().get_base_model().model(input_ids=torch.zeros(1, TOKENS, dtype=torch.long))
    assert hidden.last_hidden_state.dtype == torch.bfloat16
    return sum(sizes.values())


def test_the_activations_are_what_autograd_keeps():
    assert kept(recompute=False) == pytest.approx(TOKENS * 3 * layer_activations(CONFIG), rel=0.1)


def test_recomputation_keeps_the_inputs_of_the_layers():
    size = activation_memory(CONFIG, TOKENS, True, 64, False)
    assert activation_memory(CONFIG, TOKENS, False, 64, False) - size == pytest.approx(
        TOKENS * (2 * layer_activations(CONFIG) - 3 * 2 * CONFIG.hidden_size)
    )


def test_the_loss_takes_what_is_estimated():
    hidden = torch.randn(1, TOKENS, CONFIG.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    head = torch.randn(CONFIG.vocab_size, CONFIG.hidden_size, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = next_token_loss(hidden, head, torch.ones(1, TOKENS, dtype=torch.long), 64)
    gradient = total.grad_fn.grad_head_VD
    assert gradient.untyped_storage().nbytes() == CONFIG.vocab_size * CONFIG.hidden_size * 4
    with_head, without = (activation_memory(CONFIG, TOKENS, True, 64, trains) for trains in (True, False))
    assert with_head - without == gradient.untyped_storage().nbytes()
