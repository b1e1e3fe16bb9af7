"""A LoRA layer, a norm and causal attention as one autograd step each: same adapter, same numbers, less traffic.

On a CPU a training step of a small model waits for memory as long as it computes. Notable choices:

- LoRA. peft computes `base(x) + B(A(x)) * scaling` as five operations, each of which reads and writes an activation as
  large as the output. Here the update is accumulated into the output of the base matmul (`addmm_`), and the scaling is
  applied to the r-wide side. Hu et al. 2021 (arXiv 2106.09685), eq. 3:

      y = x W^T + s (x A^T) B^T          x (N, in)   W (out, in)   A (r, in)   B (out, r)
      dA = s (g B)^T x    dB = s g^T (x A^T)    dx = g W + s (g B) A          W is frozen: no dW

- Attention. PyTorch's CPU kernel for causal attention is slow in its backward pass at 16 bits. Here it is matmuls over
  blocks of queries, each with the keys that they may see and no others.
- RMS norm. Gemma's code in transformers passes over an activation nine times, and autograd twelve times more; here it
  is three and five.
- `packed` is for writing, not for training: a matmul of few rows spends much of its time bringing the weights into
  the order that its kernel wants, once for every token. Here they are brought into it once.
- `keep_memory` lets the C library hand freed activations to the next layer: by default it returns them to the system,
  which hands out the same pages anew, filled with zeros.

`fuse` replaces the forward of plain LoRA layers only; dropout, DoRA, quantised bases and biases keep peft's own.
Attention and norm are replaced on a CPU only: a GPU has kernels for them.
"""

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm


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
    if next(model.parameters()).device.type == "cpu":
        for module in model.modules():
            if type(module) is Gemma3RMSNorm:
                module.forward = _norm_forward.__get__(module)  # type: ignore[method-assign]
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        if base.config._attn_implementation == "sdpa":
            base.set_attn_implementation(BLOCKS)
    return len(layers)


# ------------------------------------------------------------------------------------------- attention


class CausalAttention(torch.autograd.Function):
    """softmax(q k^T s) v for q (batch, heads, T, d), k and v (batch, fewer heads, T, d); `window` keys back at most."""

    BLOCK = 128  # queries

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scaling: float, window: int) -> Tensor:
        batch, heads, length, width = q.shape
        q = q.reshape(batch, k.shape[1], -1, length, width)  # (batch, kv heads, heads of a kv head, T, d)
        out, weights = torch.empty_like(q), []
        for first, low, last in CausalAttention.blocks(length, window):
            rows = q[..., first:last, :].flatten(2, 3)
            scores = (rows @ k[..., low:last, :].mT).float().mul_(scaling).view(*q.shape[:3], last - first, last - low)
            back = torch.arange(first, last)[:, None] - torch.arange(low, last)
            scores.masked_fill_((back < 0) | (back >= window), -torch.inf)
            weights.append(scores.softmax(-1).to(q.dtype).flatten(2, 3))
            out[..., first:last, :] = (weights[-1] @ v[..., low:last, :]).view_as(out[..., first:last, :])
        ctx.save_for_backward(q, k, v, out, *weights)
        ctx.scaling, ctx.window = scaling, window
        return out.view(batch, heads, length, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        q, k, v, out, *weights = ctx.saved_tensors
        g = gradients[0].reshape(q.shape)
        dot = (g * out).sum(-1, keepdim=True, dtype=torch.float32)
        dq = torch.empty_like(q)
        dk, dv = (torch.zeros(k.shape, dtype=torch.float32) for _ in range(2))
        for (first, low, last), p in zip(CausalAttention.blocks(q.shape[3], ctx.window), weights, strict=True):
            g_rows, rows = g[..., first:last, :].flatten(2, 3), q[..., first:last, :].flatten(2, 3)
            dv[..., low:last, :] += p.mT @ g_rows
            ds = (g_rows @ v[..., low:last, :].mT).float().sub_(dot[..., first:last, :].flatten(2, 3))
            ds = ds.mul_(p).mul_(ctx.scaling).to(q.dtype)
            dq[..., first:last, :] = (ds @ k[..., low:last, :]).view_as(dq[..., first:last, :])
            dk[..., low:last, :] += ds.mT @ rows
        return dq.view_as(gradients[0]), dk.to(k.dtype), dv.to(v.dtype), None, None

    @staticmethod
    def blocks(length: int, window: int) -> list[tuple[int, int, int]]:
        """First and last query of each block, and between them the first key that the first query sees."""
        starts = range(0, length, CausalAttention.BLOCK)
        return [(s, max(0, s - window + 1), min(s + CausalAttention.BLOCK, length)) for s in starts]


BLOCKS = "cbt_blocks"
"""The name under which transformers knows this attention."""


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    plain = attention_mask is None and not options.get("dropout") and query.shape[2] == key.shape[2]
    if not plain:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    window = options.get("sliding_window") or query.shape[2]
    kind = _precision(query)
    query, key, value = query.to(kind), key.to(kind), value.to(kind)
    return CausalAttention.apply(query, key, value, options["scaling"], window).transpose(1, 2), None


def _mask(batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, **options: Any) -> Tensor | None:
    # Without padding or a cache the blocks above know which keys a query sees; the skip is transformers' word for that.
    whole = options.get("attention_mask") is None and q_length == kv_length and not q_offset
    if whole and options.get("allow_is_causal_skip", True):
        return None
    return sdpa_mask(batch_size, q_length, kv_length, q_offset, **options)


AttentionInterface.register(BLOCKS, _attention)
AttentionMaskInterface.register(BLOCKS, _mask)


# ------------------------------------------------------------------------------------------- norm and memory


class RmsNorm(torch.autograd.Function):
    """x / rms(x) * scale for x (..., width) and scale (width,), computed in fp32; the scale is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        y, inverse = _scaled(x, scale, eps)
        ctx.save_for_backward(x, scale, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, scale, inverse = ctx.saved_tensors
        g = gradients[0] * scale
        dot = (g * x).sum(-1, keepdim=True).mul_(inverse**3 / x.shape[-1])
        return g.mul_(inverse).sub_(x * dot).to(x.dtype), None, None


def _scaled(x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normed x, and 1 / rms(x)."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    inverse = size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * inverse).mul_(scale).to(x.dtype), inverse


def _norm_forward(self: Any, x: Tensor) -> Tensor:
    return RmsNorm.apply(x, 1.0 + self.weight.detach().float(), self.eps)


def keep_memory() -> None:
    """Ask glibc to keep freed memory for the next layer; nothing on other systems."""
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        library.mallopt(mmap_threshold, 2**30)
        library.mallopt(trim_threshold, 2**31 - 1)


# ------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Inside, plain bf16 linear layers on a CPU multiply a copy of their weights in the kernel's own order (oneDNN's).

    Gemma's norms scale by a copy of their weights too. The sums are the same, added up in another order. No gradients;
    other layers and devices are left alone.
    """
    forwards: dict[nn.Module, Any] = {}
    for layer in model.modules():
        weight: Any = getattr(layer, "weight", None)
        if weight is None or weight.device.type != "cpu":
            continue
        if type(layer) is Gemma3RMSNorm:
            forwards[layer] = partial(_packed_norm, 1.0 + weight.detach().float(), layer.eps)
        elif type(layer) is nn.Linear and weight.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available():
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 16)  # for about that many rows
            forwards[layer] = partial(_packed_forward, weight, layer.bias)
    before = {layer: vars(layer).get("forward") for layer in forwards}  # `fuse` may have put one there
    for layer, forward in forwards.items():
        layer.forward = forward
    try:
        yield
    finally:
        for layer, forward in before.items():
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


def _packed_forward(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


def _packed_norm(scale: Tensor, eps: float, x: Tensor) -> Tensor:
    return _scaled(x, scale, eps)[0]


# ------------------------------------------------------------------------------------------- LoRA


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
    kind = _precision(x)
    a, b, weight = self.lora_A["default"].weight, self.lora_B["default"].weight, self.base_layer.weight
    # The adapter is kept in fp32 for the optimizer and multiplied in the model's precision.
    return LoraMatmul.apply(x.to(kind), weight.to(kind), a.to(kind), b.to(kind), self.scaling["default"])


def _precision(x: Tensor) -> torch.dtype:
    """In which an operation that autocast lowers would compute."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
