"""An OpenAI-compatible endpoint (a remote one, or a local model served on loopback) and the model itself for training.

Notable choices:
- `load` gives a transformers model and tokenizer; in bf16 only where the processor multiplies bf16 natively, since a
  CPU that emulates it is slower than with fp32.
"""

from typing import Any

from cbtlib import CbtError, embedded


def load(model: str = "embedded", dtype: str | None = None, trimmed: bool = True) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, on the CPU: "embedded", "smoke", a local folder or a hub id.

    `dtype` is "float32", "bfloat16", …; None takes `best_dtype()`. `trimmed=False` gives "embedded" its whole
    262,144-token vocabulary (it takes another 1.1 GB of cache). Raises CbtError when there is no such model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(embedded.model_dir(model, trimmed)) if model in embedded.NAMES else model
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        weights = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype or best_dtype()))
    except (OSError, ValueError, AttributeError) as error:
        raise CbtError(f"cannot load the model '{model}': {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return weights, tokenizer


def best_dtype() -> str:
    """ "bfloat16" on a GPU or a processor with native bf16 arithmetic (AVX512-BF16, AMX), else "float32"."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    fast = torch.cuda.is_available() or capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if fast else "float32"
