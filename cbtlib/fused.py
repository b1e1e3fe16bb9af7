"""LoRA layers, norms and causal attention as one autograd step each: same adapter, same numbers, less traffic.

On a CPU a training step of a small model waits for memory as long as it computes. Notable choices:

- LoRA. peft computes `base(x) + B(A(x)) * scaling` as five operations, each of which reads and writes an activation as
  large as the output. Here the update is accumulated into the output of the base matmul (`addmm_`), and the scaling is
  applied to the r-wide side. Hu et al. 2021 (arXiv 2106.09685), eq. 3:

      y = x W^T + s (x A^T) B^T          x (N, in)   W (out, in)   A (r, in)   B (out, r)
      dA = s (g B)^T x    dB = s g^T (x A^T)    dx = g W + s (g B) A          W is frozen: no dW

  Layers that read the same x (query, key, value; gate, up) are one step, and their dx is summed up as it is made.
- Attention. PyTorch's CPU kernel for causal attention is slow in its backward pass at 16 bits. Here it is matmuls over
  blocks of queries, each with the keys that they may see and no others.
- RMS norm, and the rotation of queries and keys by their positions. In transformers each is many small operations,
  and autograd makes more of them; here both directions are a few.
- `packed` is for writing, not for training: a matmul of few rows spends much of its time bringing the weights into
  the order that its kernel wants, once for every token. Here they are brought into it once.
- `keep_memory` lets the C library hand freed activations to the next layer: by default it returns them to the system,
  which hands out the same pages anew, filled with zeros. `return_memory` does that once an optimizer step.

`fuse` replaces the forward of plain LoRA layers only; dropout, DoRA, quantised bases and biases keep peft's own.
Attention and norms are replaced in Gemma models on a CPU only: a GPU has kernels for them.
"""

import contextlib
import ctypes
import functools
import itertools
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
from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention, Gemma3MLP, Gemma3RMSNorm


class LoraMatmul(torch.autograd.Function):
    """The outputs of LoRA layers that read the same x (..., in), which has the dtype of their frozen weights.

    `matrices` are W, A and B of the first layer, then of the next; `scalings` has one number a layer.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scalings: tuple[float, ...], *matrices: Tensor) -> tuple[Tensor, ...]:
        flat, outputs = x.reshape(-1, x.shape[-1]), []
        weights, b = matrices[::3], [one.to(x.dtype) for one in matrices[2::3]]
        a = torch.cat(matrices[1::3]).to(x.dtype)
        narrow = a @ flat.t()  # the kernel is faster with the wide matrix on the right
        ctx.ranks = [one.shape[1] for one in b]
        for weight, up, part, scaling in zip(weights, b, narrow.split(ctx.ranks), scalings, strict=True):
            y = (flat @ weight.t()).addmm_(part.t(), up.t(), alpha=scaling)
            outputs.append(y.view(*x.shape[:-1], -1))
        ctx.save_for_backward(flat, a, narrow, *weights, *b)
        ctx.scalings = scalings
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        flat, a, narrow, *rest = ctx.saved_tensors
        weights, b = rest[: len(gradients)], rest[len(gradients) :]
        g = [one.reshape(-1, one.shape[-1]) for one in gradients]
        parts = zip(g, b, ctx.scalings, strict=True)
        g_narrow = torch.cat([(up.t() @ one.t()).mul_(scaling) for one, up, scaling in parts])
        dx = None
        if ctx.needs_input_grad[0]:
            dx = g[0] @ weights[0]
            for one, weight in zip(g[1:], weights[1:], strict=True):
                dx.addmm_(one, weight)
            dx = dx.addmm_(g_narrow.t(), a).view(*gradients[0].shape[:-1], -1)
        da = (g_narrow @ flat).float().split(ctx.ranks)
        parts = zip(narrow.split(ctx.ranks), g, ctx.scalings, strict=True)
        db = [(part @ one).t().float().mul_(scaling) for part, one, scaling in parts]
        return dx, None, *itertools.chain.from_iterable((None, *both) for both in zip(da, db, strict=True))


def fuse(model: nn.Module) -> int:
    """Give every plain LoRA layer of a peft model the fused forward; returns how many there are."""
    layers = [module for module in model.modules() if isinstance(module, LoraLinear) and _plain(module)]
    for layer in layers:
        layer.forward = _forward.__get__(layer)  # type: ignore[method-assign]
    if next(model.parameters()).device.type == "cpu":
        for module in model.modules():
            if type(module) in GEMMA:
                module.forward = GEMMA[type(module)].__get__(module)
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        if base.config._attn_implementation == "sdpa":
            base.set_attn_implementation(BLOCKS)
    return len(layers)


# ------------------------------------------------------------------------------------------- attention


class CausalAttention(torch.autograd.Function):
    """softmax(q k^T) v for q (batch, T, heads, d), k and v (batch, T, fewer heads, d); `window` keys back at most.

    The heads of one position lie together, as the layers before and after have them, so that a block is one matrix.
    """

    BLOCK = 128  # queries

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        out, weights = torch.empty_like(q), []
        for one, group in CausalAttention.heads(q, k):
            rows, keys, values, place = q[group], k[one], v[one], out[group]
            for first, low, last in CausalAttention.blocks(q.shape[1], window):
                scores = rows[first:last].flatten(0, 1) @ keys[low:last].t()
                scores.masked_fill_(CausalAttention.unseen(first, low, last, window, rows.shape[1]), -torch.inf)
                weights.append(torch._softmax(scores, -1, False))
                place[first:last] = (weights[-1] @ values[low:last]).view_as(place[first:last])
        ctx.save_for_backward(q, k, v, *weights)
        ctx.window = window
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        q, k, v, *weights = ctx.saved_tensors
        (gradient,), following = gradients, iter(weights)
        dq = torch.empty_like(q)
        dk, dv = (torch.zeros(k.shape, dtype=torch.float32) for _ in range(2))
        for one, group in CausalAttention.heads(q, k):
            rows, keys, values, g = q[group], k[one], v[one], gradient[group]
            d_rows, d_keys, d_values = dq[group], dk[one], dv[one]
            for first, low, last in CausalAttention.blocks(q.shape[1], ctx.window):
                p, g_block = next(following), g[first:last].flatten(0, 1)
                d_values[low:last] += p.t() @ g_block
                ds = torch._softmax_backward_data(g_block @ values[low:last].t(), p, -1, p.dtype)
                d_rows[first:last] = (ds @ keys[low:last]).view_as(d_rows[first:last])
                d_keys[low:last] += ds.t() @ rows[first:last].flatten(0, 1)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None

    @staticmethod
    def heads(q: Tensor, k: Tensor) -> Iterator[tuple[Any, Any]]:
        """Where each key head is, a matrix (T, d), and the query heads that look at it, (T, heads, d)."""
        size = q.shape[2] // k.shape[2]
        for row, head in itertools.product(range(k.shape[0]), range(k.shape[2])):
            yield (row, slice(None), head), (row, slice(None), slice(head * size, (head + 1) * size))

    @staticmethod
    def blocks(length: int, window: int) -> list[tuple[int, int, int]]:
        """First and last query of each block, and between them the first key that the first query sees."""
        starts = range(0, length, CausalAttention.BLOCK)
        return [(s, max(0, s - window + 1), min(s + CausalAttention.BLOCK, length)) for s in starts]

    @staticmethod
    @functools.lru_cache(64)  # every layer asks for the same
    def unseen(first: int, low: int, last: int, window: int, heads: int) -> Tensor:
        """Which keys (low to last) each query (first to last, its heads together) may not see."""
        back = torch.arange(first, last)[:, None] - torch.arange(low, last)
        return ((back < 0) | (back >= window)).repeat_interleave(heads, 0)


BLOCKS = "cbt_blocks"
"""The name under which transformers knows this attention."""


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    plain = attention_mask is None and not options.get("dropout") and query.shape[2] == key.shape[2]
    if not plain:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    window = options.get("sliding_window") or query.shape[2]
    query = query * options["scaling"]
    query, key, value = (states.transpose(1, 2).to(_precision(query)) for states in (query, key, value))
    return CausalAttention.apply(query, key, value, window), None


def _gemma_forward(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: Any,
    attention_mask: Any,
    past_key_values: Any = None,
    **rest: Any,
) -> Any:
    plain = attention_mask is None and past_key_values is None and self.config._attn_implementation == BLOCKS
    if not plain or (self.training and self.attention_dropout):
        return Gemma3Attention.forward(
            self, hidden_states, position_embeddings, attention_mask, past_key_values, **rest
        )
    shape = hidden_states.shape[:-1]
    states = _together(hidden_states, self.q_proj, self.k_proj, self.v_proj)
    q, k, v = (one.view(*shape, -1, self.head_dim) for one in states)
    q = RotaryNorm.apply(q, _scale(self.q_norm) * self.scaling, self.q_norm.eps, *position_embeddings)
    k = RotaryNorm.apply(k, _scale(self.k_norm), self.k_norm.eps, *position_embeddings)
    out = CausalAttention.apply(q, k, v, self.sliding_window or shape[1])
    return self.o_proj(out.view(*shape, -1)), None


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
        y, inverse = _normed(x, scale, eps)
        ctx.save_for_backward(x, scale, inverse)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, scale, inverse = ctx.saved_tensors
        return _norm_gradient(gradients[0] * scale, x, inverse), None, None


class RotaryNorm(torch.autograd.Function):
    """The norm above, then the rotation of rotary positions (Su et al. 2021, arXiv 2104.09864, eq. 34).

    x (batch, T, heads, d); scale (d,); cos and sin (1 or batch, T, d) of the angles, twice, as transformers has them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
        y, inverse = _normed(x, scale, eps)
        ctx.save_for_backward(x, scale, inverse, cos, sin)
        return _turned(y, cos, sin, 1).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, scale, inverse, cos, sin = ctx.saved_tensors
        return _norm_gradient(_turned(gradients[0], cos, sin, -1).mul_(scale), x, inverse), None, None, None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, way: int) -> Tensor:
    """x (batch, T, heads, d) with its halves turned by the angles, or back (way -1); in fp32."""
    cos, sin, half = cos.float().unsqueeze(2), sin.unsqueeze(2), x.shape[-1] // 2
    y = x * cos
    y[..., :half].addcmul_(x[..., half:], sin[..., half:], value=-way)
    y[..., half:].addcmul_(x[..., :half], sin[..., :half], value=way)
    return y


def _normed(x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x) * scale, and 1 / rms(x), in fp32."""
    x = x.float()
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * inverse).mul_(scale), inverse


def _norm_gradient(g: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """The gradient of x from that of x / rms(x), which is in fp32 and is used up."""
    wide = x.float()
    dot = (g * wide).sum(-1, keepdim=True).mul_(inverse**3 / x.shape[-1])
    return g.mul_(inverse).addcmul_(wide, dot, value=-1).to(x.dtype)


def _norm_forward(self: Any, x: Tensor) -> Tensor:
    return RmsNorm.apply(x, _scale(self), self.eps)


def _scale(norm: Any) -> Tensor:
    """What Gemma's norm multiplies by."""
    return 1.0 + norm.weight.detach().float()


def keep_memory() -> None:
    """Ask glibc to keep freed memory for the next layer; nothing on other systems."""
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    _glibc("mallopt", mmap_threshold, 2**30)
    _glibc("mallopt", trim_threshold, 2**31 - 1)


def return_memory() -> None:
    """Return what glibc has kept. Now and then: rows of other lengths leave gaps that the next ones do not fill."""
    _glibc("malloc_trim", 0)


def _glibc(function: str, *arguments: int) -> None:
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if hasattr(library, function):  # musl has neither
        getattr(library, function)(*arguments)


# ------------------------------------------------------------------------------------------- writing


PACKABLE = (torch.bfloat16, torch.float32)


@contextlib.contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Inside, plain linear layers on a CPU multiply a copy of their weights in the kernel's own order (oneDNN's).

    Gemma's norms scale by a copy of their weights too. The sums are the same, added up in another order. No gradients;
    other layers and devices are left alone.
    """
    forwards: dict[nn.Module, Any] = {}
    for layer in model.modules():
        weight: Any = getattr(layer, "weight", None)
        if weight is None or weight.device.type != "cpu":
            continue
        if type(layer) is Gemma3RMSNorm:
            forwards[layer] = partial(_packed_norm, _scale(layer), layer.eps)
        elif type(layer) is nn.Linear and weight.dtype in PACKABLE and torch.backends.mkldnn.is_available():
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
    return _normed(x, scale, eps)[0].to(x.dtype)


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
    if args or kwargs or not _is_fused(self):
        return LoraLinear.forward(self, x, *args, **kwargs)
    return _together(x, self)[0]


def _together(x: Tensor, *layers: Any) -> tuple[Tensor, ...]:
    """What the layers make of x: in one step where all of them are fused."""
    if not all(_is_fused(one) for one in layers):
        return tuple(one(x) for one in layers)
    kind, scalings, matrices = _precision(x), [], []
    for one in layers:  # the adapter is kept in fp32 for the optimizer and multiplied in the model's precision
        scalings.append(one.scaling["default"])
        matrices += [one.base_layer.weight.to(kind), one.lora_A["default"].weight, one.lora_B["default"].weight]
    return LoraMatmul.apply(x.to(kind), tuple(scalings), *matrices)


def _is_fused(layer: Any) -> bool:
    fused = isinstance(layer, LoraLinear) and "forward" in vars(layer)
    return fused and not layer.disable_adapters and not layer.merged


def _mlp_forward(self: Any, x: Tensor) -> Tensor:
    gate, up = _together(x, self.gate_proj, self.up_proj)
    return self.down_proj(self.act_fn(gate) * up)


def _precision(x: Tensor) -> torch.dtype:
    """In which an operation that autocast lowers would compute."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


GEMMA = {Gemma3RMSNorm: _norm_forward, Gemma3Attention: _gemma_forward, Gemma3MLP: _mlp_forward}
"""What is replaced in a Gemma model on a CPU."""
