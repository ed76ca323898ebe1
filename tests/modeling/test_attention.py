"""Packed documents are isolated: a batch gives the losses and gradients of its documents one by one."""

import numpy as np
import pytest
import torch
import transformers.modeling_flash_attention_utils as flash_utils
from transformers.utils import is_flash_attn_2_available

from data_modules.batches.rows import Fragment, collate, pack
from glmja.modeling.adapters import Lora, apply_tuning
from glmja.modeling.attention import check_attention, model_inputs
from glmja.modeling.batch import Batch
from glmja.modeling.generation import generate_ids
from glmja.modeling.loading import load_model
from glmja.modeling.loss import next_token_loss
from glmja.modeling.sampling import Sampling

ONE_ROW, THREE_ROWS = [[20, 30, 14]], [[20, 30, 14], [40, 17], [9]]  # lengths of documents; rows are padded


def fragments(lengths):
    numbers = np.random.default_rng(0)
    return [[Fragment(numbers.integers(100, 3000, n).astype(np.uint32)) for n in row] for row in lengths]


def losses(model, batches):
    """Summed loss and gradients of some batches together."""
    model.zero_grad()
    total = torch.zeros(())
    for batch in batches:
        hidden = model.model(**model_inputs(batch, model.config._attn_implementation)).last_hidden_state
        loss, _ = next_token_loss(hidden, model.lm_head.weight, batch["labels"], 256)
        loss.backward()
        total += loss.detach()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_isolated(model, alone, lengths):
    rows = fragments(lengths)
    total, gradients = losses(model, [collate([pack(row) for row in rows])])
    expected, expected_gradients = losses(alone, [collate([pack([document])]) for row in rows for document in row])
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    for name, gradient in expected_gradients.items():
        assert (gradients[name] - gradient).norm() <= 5e-6 * gradient.norm(), name


@pytest.mark.parametrize("lengths", [ONE_ROW, THREE_ROWS], ids=["one row", "three rows"])
@pytest.mark.parametrize("attention", ["documents", "sdpa", "eager"])
def test_packed_documents_have_the_loss_and_the_gradients_of_each_alone(zero_dir, attention, lengths):
    alone = load_model(zero_dir, torch.float32, "sdpa")
    check_isolated(load_model(zero_dir, torch.float32, attention), alone, lengths)


@pytest.mark.slow  # it is compiled
@pytest.mark.parametrize("lengths", [ONE_ROW, THREE_ROWS], ids=["one row", "three rows"])
def test_flex_attention_isolates_packed_documents(zero_dir, lengths):
    models = [load_model(zero_dir, torch.float32, name) for name in ("flex_attention", "documents")]
    with torch.no_grad():  # PyTorch has no backward pass of it for CPUs
        found, expected = (hidden_states(model, fragments(lengths)) for model in models)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def hidden_states(model, rows):
    batch = collate([pack(row) for row in rows])
    hidden = model.model(**model_inputs(batch, model.config._attn_implementation)).last_hidden_state
    return torch.cat([hidden[i, :n] for i, n in enumerate(batch["lengths"])])


def kernel(query, key, value, cu_seqlens_q=None, **others):
    """The interface of flash-attn's kernels, for CPUs: (T, H, D), or (B, T, H, D) without boundaries."""
    if cu_seqlens_q is None:
        rows = (tensor.unbind() for tensor in (query, key, value))
        return torch.stack([causal(*row) for row in zip(*rows, strict=True)])
    documents = (tensor.split(cu_seqlens_q.diff().tolist()) for tensor in (query, key, value))
    return torch.cat([causal(*document) for document in zip(*documents, strict=True)])


def causal(*document):
    query, key, value = (states.transpose(0, 1)[None] for states in document)
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(query, key, value, is_causal=True, enable_gqa=True)[0].transpose(0, 1)


@pytest.mark.parametrize("lengths", [ONE_ROW, THREE_ROWS], ids=["one row", "three rows"])
def test_flash_attention_gets_the_boundaries_of_documents(zero_dir, monkeypatch, lengths):
    """The kernel is a stand-in, since flash-attn needs a GPU; that it is given the boundaries is transformers' part."""
    loaded = ((kernel, kernel, None, None, None), (lambda **options: {"is_causal": options["is_causal"]}, None))
    monkeypatch.setattr(flash_utils, "lazy_import_flash_attention", lambda *args, **options: loaded)
    model = load_model(zero_dir, torch.float32, "documents")
    expected = hidden_states(model, fragments(lengths))
    model.config._attn_implementation = "flash_attention_2"
    torch.testing.assert_close(hidden_states(model, fragments(lengths)), expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_trains_by_documents_generates_with_cache_and_padding(zero_dir, tokenizer):
    prompts = [tokenizer.prefix_ids + ids for ids in ([200, 300, 400, 500], [600, 700], [800])]
    sampling = Sampling(max_new_tokens=8, do_sample=False)
    replies = [
        generate_ids(load_model(zero_dir, torch.float32, name), tokenizer, prompts, sampling)
        for name in ("documents", "sdpa")
    ]
    assert replies[0] == replies[1]


def test_a_forward_pass_without_boundaries_is_that_of_sdpa(zero_dir):
    ids, mask = torch.randint(100, 3000, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    mask[0, :4] = 0
    documents, sdpa = (load_model(zero_dir, torch.float32, name) for name in ("documents", "sdpa"))
    for inputs in ({}, {"attention_mask": mask}, {"position_ids": torch.arange(9).remainder(4)[None]}):
        assert torch.equal(documents(ids, **inputs).logits, sdpa(ids, **inputs).logits)


@pytest.mark.slow  # they are compiled
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which PyTorch's compiler itself reads
def test_layers_that_are_compiled_give_the_loss_of_others(zero_dir):
    rows = [collate([pack(row) for row in fragments(lengths)]) for lengths in (ONE_ROW, THREE_ROWS, [[5, 59]])]
    plain, compiled = (load_model(zero_dir, torch.float32, "documents") for _ in range(2))
    for model in (plain, compiled):
        apply_tuning(model, "lora", "full", Lora(), [])
    for layer in compiled.model.layers:
        layer.compile(backend="aot_eager")
    torch.testing.assert_close(losses(compiled, rows)[0], losses(plain, rows)[0], rtol=1e-6, atol=0)


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
def test_flash_attention_is_refused_before_a_run_where_it_is_not_installed():
    message = (
        "^`attn_implementation` is flash_attention_2, which needs a GPU and the package flash-attn; .* set documents$"
    )
    with pytest.raises(ValueError, match=message):
        check_attention("flash_attention_2")


def test_offsets_of_documents_are_where_positions_restart_and_the_end():
    batch: Batch = collate([pack(row) for row in fragments(THREE_ROWS)])
    assert batch["document_offsets"].tolist() == [0, 20, 50, 64, 104, 128, 192]
    assert batch["document_offsets"].dtype == torch.int32
