"""A LoRA layer as one autograd step: same adapter, same numbers, less traffic.

peft computes `base(x) + B(A(x)) * scaling` as five operations, each of which reads and writes an activation as large
as the output; on a CPU that traffic costs a fifth of a training step. Here the update is accumulated into the output
of the base matmul (`addmm_`), and the scaling is applied to the r-wide side. Hu et al. 2021 (arXiv 2106.09685), eq. 3:

    y = x W^T + s (x A^T) B^T          x (N, in)   W (out, in)   A (r, in)   B (out, r)
    dA = s (g B)^T x    dB = s g^T (x A^T)    dx = g W + s (g B) A          W is frozen: no dW

`fuse` replaces the forward of plain LoRA layers only; dropout, DoRA, quantised bases and biases keep peft's own.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn


class LoraMatmul(torch.autograd.Function):
    """y = x W^T + s (x A^T) B^T for x (..., in); all tensors of one dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        narrow = flat @ a.t()
        y = (flat @ weight.t()).addmm_(narrow, b.t(), alpha=scaling)
        ctx.save_for_backward(flat, weight, a, b, narrow)
        ctx.scaling = scaling
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        flat, weight, a, b, narrow = ctx.saved_tensors
        (gradient,) = gradients
        g = gradient.reshape(-1, gradient.shape[-1])
        g_narrow = (g @ b).mul_(ctx.scaling)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (g @ weight).addmm_(g_narrow, a).view(*gradient.shape[:-1], -1)
        return dx, None, g_narrow.t() @ flat, (narrow.t() @ g).t() * ctx.scaling, None


def fuse(model: nn.Module) -> int:
    """Give every plain LoRA layer of a peft model the fused forward; returns how many there are."""
    layers = [module for module in model.modules() if isinstance(module, LoraLinear) and _plain(module)]
    for layer in layers:
        layer.forward = _forward.__get__(layer)  # type: ignore[method-assign]
    return len(layers)


def _plain(layer: Any) -> bool:
    return (
        type(layer.base_layer) is nn.Linear
        and layer.base_layer.bias is None
        and layer.active_adapters == ["default"]
        and not layer.lora_variant
        and not layer.lora_bias["default"]
        and isinstance(layer.lora_dropout["default"], nn.Identity)
    )


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if self.disable_adapters or self.merged or args or kwargs:
        return LoraLinear.forward(self, x, *args, **kwargs)
    kind = x.dtype if not torch.is_autocast_enabled(x.device.type) else torch.get_autocast_dtype(x.device.type)
    a, b, weight = self.lora_A["default"].weight, self.lora_B["default"].weight, self.base_layer.weight
    # The adapter is kept in fp32 for the optimizer and multiplied in the model's precision.
    return LoraMatmul.apply(x.to(kind), weight.to(kind), a.to(kind), b.to(kind), self.scaling["default"])
