import pytest
import torch

from glmja.modeling.adapters import Lora, apply_tuning
from glmja.modeling.loading import load_model
from glmja.modeling.loss import next_token_loss
from glmja.weights.glm import GLM

NEW_IDS = range(2509, 3109)
IDS = torch.tensor([[5, 300, 7, 900, 2600, 2]])
KINDS = [
    (t, e) for t in ("lora", "full", "frozen") for e in ("frozen", "full", "new_rows") if (t, e) != ("frozen",) * 2
]


def chosen(zero_dir, tuning, embeddings, dtype=torch.float32, **lora):
    return apply_tuning(load_model(zero_dir, dtype), tuning, embeddings, Lora(**lora), NEW_IDS)


def glm_of(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def loss(model):
    glm = glm_of(model)
    return next_token_loss(glm.model(IDS, use_cache=False)[0], glm.lm_head.weight, IDS)[0]


@pytest.mark.parametrize(("tuning", "embeddings"), KINDS)
def test_before_training_the_adapted_model_gives_the_logits_of_the_base(zero_dir, tuning, embeddings):
    assert torch.equal(
        chosen(zero_dir, tuning, embeddings)(IDS).logits, load_model(zero_dir, torch.float32)(IDS).logits
    )


@pytest.mark.parametrize(("tuning", "embeddings"), KINDS)
def test_the_requested_parameters_train(zero_dir, tuning, embeddings):
    trained = {name for name, p in chosen(zero_dir, tuning, embeddings).named_parameters() if p.requires_grad}
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in trained if ".lora_" in name}
    assert adapted == (set(GLM.layers.linear) if tuning == "lora" else set())
    others = {name.removeprefix("base_model.model.") for name in trained if ".lora_" not in name}
    tables = {name for name in others if "embed_tokens" in name or "lm_head" in name}
    suffix = {"frozen": None, "full": ".weight", "new_rows": ".token_adapter.trainable_tokens_delta.default"}[
        embeddings
    ]
    assert tables == ({f"model.embed_tokens{suffix}", f"lm_head{suffix}"} if suffix else set())
    whole = {name for name, _ in load_model(zero_dir).named_parameters()} - {
        "model.embed_tokens.weight",
        "lm_head.weight",
    }
    assert others - tables == (whole if tuning == "full" else set())


@pytest.mark.parametrize("tuning", ["lora", "full", "frozen"])
def test_new_rows_train_and_old_rows_stay_exact_under_weight_decay(zero_dir, tuning):
    model, before = chosen(zero_dir, tuning, "new_rows"), load_model(zero_dir, torch.float32)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    for _ in range(2):
        loss(model).backward()
        optimizer.step()
    for ours, theirs in (
        (glm_of(model).model.embed_tokens, before.model.embed_tokens),
        (glm_of(model).lm_head, before.lm_head),
    ):
        assert torch.equal(ours.weight[:2509], theirs.weight[:2509])
        assert torch.equal(ours.weight[3109:], theirs.weight[3109:])
        assert (ours.weight[2509:3109] != theirs.weight[2509:3109]).any(dim=1).all()


@pytest.mark.parametrize(("tuning", "embeddings"), KINDS)
def test_what_trains_is_fp32_and_what_does_not_stays_in_16_bits(zero_dir, tuning, embeddings):
    model = chosen(zero_dir, tuning, embeddings, torch.bfloat16)
    assert {(p.requires_grad, p.dtype) for p in model.parameters()} <= {(True, torch.float32), (False, torch.bfloat16)}
    with torch.autocast("cpu", torch.bfloat16):
        total = loss(model)
        hidden = glm_of(model).model(IDS, use_cache=False)[0]
    assert hidden.dtype == (torch.float32 if tuning == "full" else torch.bfloat16)
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
    exact = loss(chosen(zero_dir, tuning, embeddings))
    torch.testing.assert_close(total, exact, rtol=2e-2, atol=0)


def test_a_model_that_is_cast_after_it_was_chosen_still_computes(zero_dir):
    """As DeepSpeed does it."""
    model = chosen(zero_dir, "lora", "full").bfloat16()
    assert torch.isfinite(loss(model))


@pytest.mark.parametrize("embeddings", ["full", "new_rows"])
def test_recomputing_activations_changes_no_gradient(zero_dir, embeddings):
    gradients = []
    for checkpointing in (False, True):
        base = load_model(zero_dir, torch.float32)
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(0)
        model = apply_tuning(base, "lora", embeddings, Lora(), NEW_IDS).train()
        loss(model).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@pytest.mark.parametrize("switch", ["rslora", "dora"])
def test_the_switches_of_peft_are_there(zero_dir, switch):
    layer = (
        chosen(zero_dir, "lora", "frozen", rank=4, alpha=8, **{switch: True})
        .get_base_model()
        .model.layers[0]
        .mlp.down_proj
    )
    assert layer.scaling["default"] == (8 / 2 if switch == "rslora" else 2)
    assert bool(layer.lora_magnitude_vector) == (switch == "dora")


def test_a_model_of_which_nothing_would_train_is_refused(zero_dir):
    with pytest.raises(ValueError, match="`tuning` and `embeddings` are both frozen, so nothing would train"):
        chosen(zero_dir, "frozen", "frozen")
    with pytest.raises(ValueError, match="`embeddings` is new_rows, but the tokenizer has no new pieces"):
        apply_tuning(load_model(zero_dir), "lora", "new_rows", Lora(), [])


@pytest.mark.parametrize("lora", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}])
def test_adapters_out_of_range_are_refused(lora):
    with pytest.raises(ValueError, match=r"`lora`: rank \(\d\) and alpha \(\d+\) must be at least 1 and dropout"):
        Lora(**lora)


@pytest.mark.parametrize("targets", [["query_key_value"], []])
def test_adapters_of_unknown_layers_are_refused(targets):
    with pytest.raises(ValueError, match=r"`lora`: targets \(.*\) must be among q_proj, k_proj"):
        Lora(targets=targets).of(GLM.layers)
