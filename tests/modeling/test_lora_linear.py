"""The fused layer against peft's."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from glmja.modeling.lora_linear import LoraLinear

SIZES = {"inputs": 12, "outputs": 20, "rank": 4}


def adapted(fused, bias=True, dtype=torch.float32, seed=0, **options):
    """A linear layer with an adapter whose B is not zero, and the same in peft's own class."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(SIZES["inputs"], SIZES["outputs"], bias=bias)).to(dtype)
    config = LoraConfig(r=SIZES["rank"], lora_alpha=6, target_modules=["0"], **options)
    if fused:
        config._register_custom_module({nn.Linear: LoraLinear})
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    return model.train()


def results(model, x, autocast=None):
    """Output and gradients; the gradient of the output differs from element to element."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        y = model(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape))
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {"y": y.detach(), "x": x.grad} | trained


def check_close(found, expected, rtol):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert (found[name] - tensor).float().norm() <= rtol * tensor.float().norm(), name


@pytest.mark.parametrize("shape", [(12,), (5, 12), (3, 5, 12), (2, 3, 5, 12)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rslora", [True, False])
def test_outputs_and_gradients_are_those_of_peft(shape, bias, rslora):
    models = [adapted(fused, bias, use_rslora=rslora) for fused in (True, False)]
    assert type(models[0].base_model.model[0]) is LoraLinear
    found, expected = (
        results(model, torch.randn(shape, generator=torch.Generator().manual_seed(1))) for model in models
    )
    check_close(found, expected, 1e-6)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inputs", [torch.float32, torch.bfloat16])
def test_under_autocast_results_are_those_of_peft_to_its_rounding(weights, inputs):
    x = torch.randn((7, 12), generator=torch.Generator().manual_seed(1)).to(inputs)
    found, expected = (results(adapted(fused, dtype=weights), x, torch.bfloat16) for fused in (True, False))
    check_close(found, expected, 2e-2)


def test_parameters_have_the_names_of_peft():
    assert adapted(True).state_dict().keys() == adapted(False).state_dict().keys()


def merge(model):
    model.merge_adapter()


def add_adapter(model):
    torch.manual_seed(3)
    model.add_adapter("second", LoraConfig(r=2, lora_alpha=3, target_modules=["0"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"lora_dropout": 0.5}, None),
        ({"use_dora": True}, None),
        ({"lora_bias": True}, None),
        ({}, merge),
        ({}, add_adapter),
        ({}, lambda model: model.base_model.disable_adapter_layers()),
    ],
    ids=["dropout", "dora", "biases", "merged", "two adapters", "disabled"],
)
def test_other_cases_are_computed_by_peft(options, change):
    x = torch.randn((7, 12), generator=torch.Generator().manual_seed(1))
    outputs = []
    for fused in (True, False):
        model = adapted(fused, **options)
        if change:
            change(model)
        torch.manual_seed(2)
        outputs.append(model(x))
    assert torch.equal(*outputs)


def test_other_cases_give_the_same_under_autocast_though_the_input_is_not_cast():
    x = torch.randn((7, 12), generator=torch.Generator().manual_seed(1))
    outputs = []
    for fused in (True, False):
        model = adapted(fused, lora_dropout=0.5)
        torch.manual_seed(2)
        outputs.append(results(model, x, torch.bfloat16))
    assert all(torch.equal(outputs[0][name], outputs[1][name]) for name in outputs[1])


def test_16_bit_inputs_and_fp32_adapters_work_without_autocast():
    x = torch.randn((7, 12), generator=torch.Generator().manual_seed(1), dtype=torch.bfloat16)
    for options in ({}, {"lora_dropout": 0.5}):
        found, expected = ({"y": adapted(fused, dtype=torch.bfloat16, **options).eval()(x)} for fused in (True, False))
        check_close(found, expected, 2e-2)


class Casts(TorchDispatchMode):
    """Counts conversions of tensors that are as large as an input or an output."""

    def __init__(self, smallest):
        super().__init__()
        self.smallest, self.count = smallest, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.count += operation is torch.ops.aten._to_copy.default and result.numel() >= self.smallest
        return result


def test_no_input_and_no_output_is_cast_under_autocast():
    x = torch.randn((200, 12), dtype=torch.bfloat16)
    counts = []
    for fused in (True, False):
        with Casts(x.numel()) as casts:
            results(adapted(fused, dtype=torch.bfloat16), x, torch.bfloat16)
        counts.append(casts.count)
    assert counts[0] == 0 < counts[1]
