import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GlmConfig

from glmja.modeling.adapters import Lora, apply_tuning
from glmja.modeling.flops import flops_per_token, training_flops_per_token
from glmja.modeling.loading import load_model

CHATGLM3_JA = GlmConfig(
    vocab_size=78592, hidden_size=4096, intermediate_size=13696, num_hidden_layers=28, num_attention_heads=32,
    num_key_value_heads=2, head_dim=128,
)  # fmt: skip
LORA_R8 = 28 * 8 * ((4096 + 4096) * 2 + (4096 + 256) * 2 + (4096 + 2 * 13696) + (13696 + 4096))


@pytest.mark.parametrize(("row_len", "giga"), [(1024, 25.58), (2048, 26.28), (4096, 27.69), (8192, 30.51)])
def test_flops_of_a_chatglm3_token_with_adapters_and_embeddings_equal_the_count_by_hand(row_len, giga):
    assert round(flops_per_token(CHATGLM3_JA, row_len, LORA_R8, True) / 1e9, 2) == giga


def test_frozen_embeddings_save_the_gradient_of_the_head():
    assert round(flops_per_token(CHATGLM3_JA, 1024, LORA_R8, False) / 1e9, 2) == 24.93
    saved = flops_per_token(CHATGLM3_JA, 1024, LORA_R8, True) - flops_per_token(CHATGLM3_JA, 1024, LORA_R8, False)
    assert saved == 2 * 78592 * 4096


def test_training_everything_costs_6_operations_per_weight_beside_attention():
    linears = 28 * (2 * 4096 * 4096 + 2 * 4096 * 256 + 3 * 4096 * 13696)
    assert flops_per_token(CHATGLM3_JA, 0, 0, True, True) == 6 * (linears + 78592 * 4096)


@pytest.mark.parametrize("embeddings", ["full", "frozen"])
def test_the_count_is_what_torch_counts(zero_dir, embeddings):
    """Torch counts masked attention too, and no gradient into the first layer; the rows are short, so little of it."""
    model = apply_tuning(load_model(zero_dir, torch.float32, "eager"), "lora", embeddings, Lora(), [])
    ids = torch.arange(8)[None] + 100
    with FlopCounterMode(display=False) as counter:
        model(ids).logits.sum().backward()
    assert training_flops_per_token(model, row_len=8) * 8 == pytest.approx(counter.get_total_flops(), rel=0.04)


@pytest.mark.parametrize("tuning", ["lora", "full", "frozen"])
@pytest.mark.parametrize("embeddings", ["full", "new_rows", "frozen"])
def test_what_trains_is_read_off_the_model(zero_dir, tuning, embeddings):
    if tuning == embeddings == "frozen":
        return
    model = apply_tuning(load_model(zero_dir, torch.float32), tuning, embeddings, Lora(rank=4), [3000, 3001])
    lora = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    assert (lora > 0) == (tuning == "lora")
    expected = flops_per_token(model.config, 64, lora, embeddings != "frozen", tuning == "full")
    assert training_flops_per_token(model, 64) == expected
