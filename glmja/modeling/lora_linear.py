"""A linear layer with a low-rank adapter as one operation of the autograd graph.

peft computes W·x and B·A·x · scale apart, scales and adds results as large as the layer's output, and casts the input
to the adapter's fp32 under autocast, which casts it back. Here the scale is applied to the r numbers of each token, the
adapter's product is accumulated in the output, and nothing is cast twice.

Dimensions: N tokens, I inputs, O outputs, r rank
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LoraLinear(Linear):
    """peft's layer with its parameters and names; the common case is computed by `_Fused`, all others by peft.

    The common case is a frozen `nn.Linear` with one unmerged adapter, without dropout, biases of the adapter or DoRA.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns W·x + bias + B·A·x · scale, for x of shape (…, I)."""
        names = self.active_adapters
        if args or kwargs or self.merged or self.disable_adapters or len(names) != 1 or not self._is_plain(names[0]):
            # autocast casts by itself; elsewhere, the fp32 adapter needs an fp32 input
            self.cast_input_dtype_enabled = not torch.is_autocast_enabled(x.device.type)
            return super().forward(x, *args, **kwargs)
        a, b = self.lora_A[names[0]].weight, self.lora_B[names[0]].weight
        return _Fused.apply(x, self.base_layer.weight, self.base_layer.bias, a, b, self.scaling[names[0]])

    def _is_plain(self, name: str) -> bool:
        base = self.base_layer
        return (
            name in self.lora_A
            and name not in self.lora_variant
            and self.lora_B[name].bias is None
            and (isinstance(self.lora_dropout[name], nn.Identity) or not self.training)
            and type(base) is nn.Linear
            and not base.weight.requires_grad
            and (base.bias is None or not base.bias.requires_grad)
        )


class _Fused(torch.autograd.Function):
    """W·x + bias + B·A·x · scale; the derivatives are those of x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """Computes in the dtype of autocast, or of the input.

        Args:
            ctx: What is kept for the backward pass: nothing as large as the output.
            x: (…, I).
            weight: (O, I), frozen.
            bias: (O,), frozen, or None.
            a: (r, I).
            b: (O, r).
            scale: Factor of the adapter.
        """
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):
            x_NI = x.reshape(-1, x.shape[-1]).to(dtype)
            weight, a_rI, b_Or = weight.to(dtype), a.to(dtype), b.to(dtype)
            y_NO = F.linear(x_NI, weight, None if bias is None else bias.to(dtype))
            h_Nr = x_NI @ a_rI.t()
            y_NO.addmm_(h_Nr, b_Or.t(), alpha=scale)
        ctx.save_for_backward(x_NI, weight, a_rI, b_Or, h_Nr)
        ctx.scale, ctx.shape, ctx.dtypes = scale, x.shape, (x.dtype, a.dtype, b.dtype)
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of x, A and B."""
        x_NI, weight, a_rI, b_Or, h_Nr = ctx.saved_tensors
        x_dtype, a_dtype, b_dtype = ctx.dtypes
        with torch.autocast(gradient.device.type, enabled=False):
            g_NO = gradient.reshape(-1, gradient.shape[-1]).to(x_NI.dtype)
            g_Nr = (g_NO @ b_Or).mul_(ctx.scale)
            of_x = None
            if ctx.needs_input_grad[0]:
                of_x = (g_NO @ weight).addmm_(g_Nr, a_rI).view(ctx.shape).to(x_dtype)
            of_a = (g_Nr.t() @ x_NI).to(a_dtype)
            of_b = (h_Nr.t() @ g_NO).mul_(ctx.scale).t().to(b_dtype)  # (r, O) is the faster shape of the product
        return of_x, None, None, of_a, of_b, None
