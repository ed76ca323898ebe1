import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from glmja.errors import ModelError
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.merging import LoraScaling, merge, with_adapter, with_rows
from glmja.weights.tensors import MemoryTensor

LORA = {"rank": 4, "alpha": 6, "dropout": 0.1, "targets": ["q_proj"], "rslora": False, "dora": False}
NAME = "model.layers.0.self_attn.q_proj"
PLAIN = {"A": (4, 64), "B": (64, 4)}


def memory(*shape):
    return MemoryTensor(torch.randn(shape))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def base(zero_dir):
    return Checkpoint.open(zero_dir).as_glm()


def merged(base, trained, lora=LORA, new_ids=range(2509, 3109), dtype=torch.float32):
    return merge(base, trained, LoraScaling.of(lora) if lora else None, new_ids, dtype)


def adapter(shapes):
    return {f"{NAME}.lora_{part}.default.weight": memory(*shape) for part, shape in shapes.items()}


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("rslora", [False, True])
def test_a_merged_weight_is_pefts(base, rslora, dora):
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    weight = base.tensors[f"{NAME}.weight"].read_all().float()
    model[0].weight.data = weight.clone()
    config = LoraConfig(r=4, lora_alpha=6, use_rslora=rslora, use_dora=dora, target_modules=["0"])
    theirs = get_peft_model(model, config)
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape)
    state = {n.replace("base_model.model.0", NAME): MemoryTensor(p) for n, p in theirs.state_dict().items()}
    trained = {n: source for n, source in state.items() if "lora" in n}
    ours = merged(base, trained, LORA | {"rslora": rslora, "dora": dora}).tensors[f"{NAME}.weight"]
    expected = theirs.merge_and_unload()[0].weight
    assert not torch.allclose(expected, weight, rtol=0.1)
    torch.testing.assert_close(ours.read_all(), expected, rtol=1e-5, atol=1e-5)


def test_any_block_of_rows_is_that_of_the_whole():
    weight, a, b, magnitude = memory(50, 8), memory(3, 8), memory(50, 3), memory(50)
    source = with_adapter(weight, a, b, 0.5, magnitude)
    torch.testing.assert_close(source.read(7, 23), source.read_all()[7:23])
    torch.testing.assert_close(torch.linalg.vector_norm(source.read_all(), dim=1), magnitude.tensor.abs())
    assert torch.equal(weight.tensor, weight.read_all())


def test_the_weights_of_the_base_are_not_changed():
    weight = memory(5, 8)
    before = weight.tensor.clone()
    with_adapter(weight, memory(3, 8), memory(5, 3), 0.5, None).read_all()
    assert torch.equal(weight.tensor, before)


@pytest.mark.parametrize("first", [0, 4, 7])
def test_rows_are_replaced_where_they_are(first):
    whole, rows = memory(10, 2), memory(3, 2)
    expected = whole.tensor.clone()
    expected[first : first + 3] = rows.tensor
    assert torch.equal(with_rows(whole, rows, first).read_all(), expected)


def test_a_merged_weight_is_rounded_once(base):
    trained = adapter(PLAIN)
    exact, rounded = (
        merged(base, trained, dtype=dtype).tensors[f"{NAME}.weight"].read_all()
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(exact.bfloat16(), rounded)


def test_untrained_tensors_are_copied_by_the_kernel(base):
    tensors = merged(base, adapter(PLAIN), dtype=torch.float16).tensors
    assert [name for name in tensors if tensors[name] is not base.tensors[name]] == [f"{NAME}.weight"]


@pytest.mark.parametrize(
    ("trained", "lora", "message"),
    [
        (adapter({"A": (4, 64)}), LORA, "the adapter of .*q_proj lacks lora_B"),
        (adapter(PLAIN), LORA | {"dora": True}, "the adapter of .*q_proj lacks lora_magnitude_vector"),
        (adapter(PLAIN | {"magnitude_vector": (64,)}), LORA, "q_proj has an unexpected lora_magnitude_vector"),
        (adapter(PLAIN), None, "q_proj has an adapter, but the run saved no lora settings"),
        (adapter(PLAIN | {"B": (32, 4)}), LORA, r"lora_B with the shape \(32, 4\); the base needs \(64, 4\)"),
        (adapter(PLAIN), LORA | {"rank": 8}, r"lora_A with the shape \(4, 64\); the base needs \(8, 64\)"),
        (
            adapter(PLAIN | {"magnitude_vector": (1, 64)}),
            LORA | {"dora": True},
            r"lora_magnitude_vector with the shape \(1, 64\); the base needs \(64,\)",
        ),
        ({"model.layers.9.foo.weight": memory(1)}, None, "the run trained model.layers.9.foo.weight, which belongs to"),
        (
            {"lm_head.weight": memory(9, 64)},
            None,
            r"lm_head.weight with the shape \(9, 64\); the base needs \(3136, 64\)",
        ),
        (
            {"lm_head.token_adapter.trainable_tokens_delta.default": memory(9, 64)},
            None,
            r"trainable_tokens_delta.default with the shape \(9, 64\); the base needs \(600, 64\)",
        ),
    ],
)
def test_what_does_not_fit_the_base_is_refused(base, trained, lora, message):
    with pytest.raises(ValueError, match=message):
        merged(base, trained, lora)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_diverged_is_refused(base, value):
    trained = adapter(PLAIN)
    trained[f"{NAME}.lora_B.default.weight"].tensor[7, 2] = value
    with pytest.raises(ValueError, match=r"q_proj.weight holds NaN or infinity in float32, in rows 0 to 63"):
        merged(base, trained).tensors[f"{NAME}.weight"].read_all()


def test_a_weight_that_the_dtype_cannot_hold_is_refused(base):
    trained = {"lm_head.weight": MemoryTensor(torch.full((3136, 64), 7e4))}
    assert merged(base, trained, None).tensors["lm_head.weight"].read_all().max() == 7e4
    with pytest.raises(
        ValueError, match=r"lm_head.weight holds NaN or infinity in float16, in rows 3 to 4; if the run"
    ):
        merged(base, trained, None, dtype=torch.float16).tensors["lm_head.weight"].read(3, 5)


@pytest.mark.parametrize("change", [{"rank": 4.0}, {"rank": None}, {"dora": 1}, {"alpha": "16"}])
def test_settings_of_adapters_of_another_type_are_refused(change):
    with pytest.raises(ModelError, match=f"the run saved lora settings with {next(iter(change))} = "):
        LoraScaling.of(LORA | change)
