"""A model and its tokenizer by name: "embedded", "smoke", a folder or a hub id; and texts as it reads them.

Notable choices:
- `load` gives a transformers model and tokenizer, in bf16 only where the processor computes in it natively; `tokenizer`
  and `weights` give one of them, so that records can be checked before a long load.
- No code that a model brings along is run, and no weight that its files lack is made up.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cbtlib import CbtError, backbones, cache, embedded


def load(
    model: str = "embedded", dtype: str | None = None, trimmed: bool = True, four_bit: bool = False
) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, on the CPU: "embedded", "smoke", a local folder or a hub id.

    `dtype` is "float32", "bfloat16", …; None takes `best_dtype()`. `trimmed=False` gives "embedded" its whole
    262,144-token vocabulary (it takes another 1.1 GB of cache). `four_bit` packs the weights as QLoRA does (NF4;
    Dettmers et al. 2023, arXiv 2305.14314) and computes in `dtype`. Raises CbtError when there is no such model, when
    a weight is missing (transformers would put random numbers in its place), or when a file of weights is damaged.
    """
    words = tokenizer(model, trimmed)
    return weights(model, dtype, trimmed, four_bit), words


def tokenizer(model: str = "embedded", trimmed: bool = True) -> Any:
    """The tokenizer of `load` alone: seconds, where the weights of a large model take minutes."""
    from transformers import AutoTokenizer

    with naming(model):
        found = AutoTokenizer.from_pretrained(_source(model, trimmed), trust_remote_code=False)
    if found.pad_token_id is None:
        found.pad_token = found.eos_token
    return found


def weights(model: str = "embedded", dtype: str | None = None, trimmed: bool = True, four_bit: bool = False) -> Any:
    """The model of `load` alone."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would stand on every page of the book
    source = _source(model, trimmed)
    with naming(model):
        kind = getattr(torch, dtype or best_dtype())
        packed = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=kind
        )
        options: dict[str, Any] = {"quantization_config": packed} if four_bit else {}
        options |= {"dtype": kind, "output_loading_info": True, "trust_remote_code": False}
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, **options)
    found, facts = loaded
    missing = sorted(facts["missing_keys"])
    if missing:
        raise CbtError(
            f"cannot load the model '{model}': its files lack {len(missing)} of its weights, {missing[0]} first: fetch "
            "all of them again"
        )
    return found


def shape(model: str) -> tuple[Any, Any]:
    """The model without its weights (on the meta device), and its configuration."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with naming(model), torch.device("meta"):
        settings = AutoConfig.from_pretrained(embedded.place(model), trust_remote_code=False)
        return AutoModelForCausalLM.from_config(settings), settings


def padded(longest: int) -> int:
    """How many tokens wide to make a batch for its longest row: the next multiple of 32.

    On a CPU, PyTorch makes its kernels anew for every shape that it has not met lately. Texts of all lengths made
    that an eighth of a training step, and those kernels kept most of a gigabyte.
    """
    return -(-longest // 32) * 32


def batch(rows: Sequence[Sequence[int]], pad: int, most: int = 10**9) -> tuple[Any, Any]:
    """Token ids of texts as one tensor (texts, width), `pad` behind each, and where they are: 1, and 0 on padding.

    The width is that of the longest row, `padded`, but `most` at most.
    """
    import torch

    ids = torch.full((len(rows), min(padded(max(map(len, rows))), most)), pad)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)], mask[place, : len(row)] = torch.tensor(row), 1
    return ids, mask


LONGEST = 8192  # tokens of a text that is read whole


def with_offsets(tokenizer: Any, texts: Sequence[str]) -> Any:
    """Tokens of texts and where each stands. Nothing is cut off: what is not read would get numbers all the same.

    Raises CbtError for a text of more than LONGEST tokens.
    """
    coded = tokenizer(list(texts), return_offsets_mapping=True)
    for number, tokens in enumerate(coded["input_ids"], 1):
        if len(tokens) > LONGEST:
            raise CbtError(
                f"text {number} of {len(texts)} has {len(tokens):,} tokens, and at most {LONGEST:,} are read: cut it "
                "into posts, or take it out"
            )
    return coded


def _source(model: str, trimmed: bool) -> str:
    """The folder or hub id that transformers loads, or CbtError for a layout that it does not know."""
    source = embedded.place(model, trimmed)
    own = backbones.layout(Path(source))
    if own:
        raise CbtError(f"{model} is in {own.title()}'s own layout: `cbt convert {model} OUT` makes a folder that loads")
    return source


@contextlib.contextmanager
def naming(model: str) -> Iterator[None]:
    """Turn what loading raises into a CbtError that names the model."""
    try:
        yield
    except backbones.DAMAGED as error:
        raise CbtError(f"cannot load the model '{model}': {backbones.DAMAGE} ({type(error).__name__})") from error
    except (OSError, ValueError, ImportError, AttributeError, RuntimeError) as error:
        if "trust_remote_code" in str(error):
            raise CbtError(
                f"{model} brings code of its own, which is never run here: Baichuan-7B and Qwen-7B, once they are in a "
                "folder, become a model that needs none with `cbt convert FOLDER OUT`"
            ) from error
        raise CbtError(f"cannot load the model '{model}': {error}") from error


def checksum(model: str = "embedded") -> str:
    """SHA-256 over the weights and vocabulary that `load(model)` reads: it tells one model from another.

    "embedded" and "smoke" are made from one file, whose checksum the cache has. Other files are read whole.
    """
    from transformers.utils import cached_file

    if model in embedded.NAMES:
        parts = [cache.recorded(embedded.gguf_file(model)), str(embedded.FORMAT)]
    else:
        try:
            folder = Path(model) if Path(model).is_dir() else Path(str(cached_file(model, "config.json"))).parent
        except OSError as error:
            raise CbtError(f"cannot load the model '{model}': {error}") from error
        if not backbones.weight_files(folder):
            load(model)  # brings here what the hub has, or says what is wrong
        vocabulary = [path for path in sorted(folder.iterdir()) if path.name in VOCABULARY]
        parts = [cache.sha256(path) for path in (*backbones.weight_files(folder), *vocabulary)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


VOCABULARY = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")
"""Files of a model folder that tell its tokens."""


def device() -> str:
    """Where a model writes fastest here: "cuda" where PyTorch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def best_dtype() -> str:
    """The precision that is fastest here without risk.

    "bfloat16" on a GPU or processor that computes in it (AVX512-BF16, AMX); on an older GPU, such as the paper's V100,
    "float16"; on any other processor "float32", because emulated bf16 is slower than that.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    capabilities = torch.cpu.get_capabilities()
    return "bfloat16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "float32"
