import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from glmja.modeling.adapters import Lora, apply_tuning, unwrap_peft
from glmja.modeling.attention import model_inputs
from glmja.modeling.batch import select_rows
from glmja.modeling.loading import load_model
from glmja.modeling.loss import token_losses
from glmja.modeling.retention import BaseRows, Retention, teacher_states
from tests.support.tiny_run import make_batch

NEW_IDS = range(2509, 3109)
SHARED = [("lora", "full"), ("lora", "new_rows"), ("lora", "frozen"), ("frozen", "full"), ("frozen", "new_rows")]


def trained(zero_dir, tuning, embeddings, steps=2, **lora):
    """Returns a model after some steps, with a large rate, and the rows that it started with."""
    glm = load_model(zero_dir, torch.float32, "documents")
    rows = BaseRows(glm, embeddings, NEW_IDS.start)
    torch.manual_seed(0)
    model = apply_tuning(glm, tuning, embeddings, Lora(rank=4, **lora), NEW_IDS).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(steps):
        student_loss(unwrap_peft(model), batch(step)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, rows


def batch(seed=7):
    """Two rows, of which the second holds two documents."""
    made = make_batch(seed, num_rows=2)
    made["position_ids"][1, 9:] -= 9
    return select_rows(made, torch.tensor([True, True]))


def student_loss(glm, batch, teacher=None):
    hidden = glm.model(**model_inputs(batch, "documents")).last_hidden_state
    return token_losses(hidden, glm.lm_head.weight, batch["labels"], 5, teacher)


def teacher_of(model, rows, batch):
    return teacher_states(unwrap_peft(model), rows, model_inputs(batch, "documents"))


@pytest.mark.parametrize(("tuning", "embeddings"), SHARED)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_teacher_of_a_trained_model_is_the_model_that_it_started_from(zero_dir, tuning, embeddings, dropout):
    model, rows = trained(zero_dir, tuning, embeddings, dropout=dropout)
    states = teacher_of(model, rows, batch())
    start = load_model(zero_dir, torch.float32, "documents")
    with torch.no_grad():
        hidden = start.model(**model_inputs(batch(), "documents")).last_hidden_state
        moved = student_loss(unwrap_peft(model), batch(), states)
    assert torch.equal(states.hidden_BTD, hidden)
    assert torch.equal(states.head_OD, start.lm_head.weight[: NEW_IDS.start])
    assert moved.each_N.mean() > 0.1  # otherwise this proves nothing


def test_before_training_only_the_probability_of_new_ids_differs(zero_dir):
    model, rows = trained(zero_dir, "lora", "full", steps=0)
    glm = unwrap_peft(model)
    with torch.no_grad():
        losses = student_loss(glm, batch(), teacher_of(model, rows, batch()))
        logits = glm(**model_inputs(batch(), "documents")).logits[:, :-1].flatten(0, 1)
        kept = logits.softmax(-1)[:, : NEW_IDS.start].sum(-1)[(batch()["labels"][:, 1:] != -100).flatten()]
    torch.testing.assert_close(losses.each_N, -kept.log())


@pytest.mark.parametrize("fails", [False, True])
def test_adapters_training_mode_and_random_numbers_are_as_before_the_teacher(zero_dir, monkeypatch, fails):
    model, rows = trained(zero_dir, "lora", "full", dropout=0.3)
    required = [p.requires_grad for p in model.parameters()]
    states = torch.get_rng_state()
    if fails:
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
            patch.setattr(type(unwrap_peft(model).model), "forward", out_of_memory)
            teacher_of(model, rows, batch())
    else:
        teacher_of(model, rows, batch())
    assert torch.equal(torch.get_rng_state(), states)
    assert [p.requires_grad for p in model.parameters()] == required
    assert all(module.training for module in model.modules())
    adapted = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    assert adapted and not any(module.disable_adapters for module in adapted)


def out_of_memory(*_, **__):
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("embeddings", ["full", "new_rows"])
def test_gradients_are_those_of_a_second_model_also_if_activations_are_recomputed(zero_dir, embeddings):
    gradients = []
    for recompute, second in ((False, True), (False, False), (True, False)):
        model, rows = trained(zero_dir, "lora", embeddings)
        glm = unwrap_peft(model)
        if recompute:
            glm.gradient_checkpointing_enable({"use_reentrant": False})
        states = teacher_of(model, rows, batch())
        if second:
            start = load_model(zero_dir, torch.float32, "documents")
            hidden = start.model(**model_inputs(batch(), "documents")).last_hidden_state
            states = states._replace(hidden_BTD=hidden, head_OD=start.lm_head.weight[: NEW_IDS.start])
        student_loss(glm, batch(), states).total.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for others in gradients[1:]:
        torch.testing.assert_close(others, gradients[0])
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients[0][:4])


@pytest.mark.parametrize(("embeddings", "copies"), [("full", 2), ("new_rows", 0), ("frozen", 0)])
def test_rows_are_copied_only_if_they_train(zero_dir, embeddings, copies):
    rows = BaseRows(load_model(zero_dir), embeddings, NEW_IDS.start)
    assert len(list(rows.parameters())) == copies and not any(p.requires_grad for p in rows.parameters())


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(ValueError, match=r"`retention`: weight \(.*\) must be at least 0, and finite"):
        Retention(["zh"], weight)


def test_a_transformer_that_trains_in_full_has_no_base_in_it():
    with pytest.raises(ValueError, match=r"`tuning` full overwrites; set `tuning` to lora, or leave out `retention`"):
        Retention(["zh"]).check_tuning("full")
    Retention(["zh"], 0).check_tuning("full")
    Retention().check_tuning("full")
