"""An OpenAI-compatible endpoint (a remote one, or a local model served on loopback) and the model itself for training.

Notable choices:
- `load` gives a transformers model and tokenizer, in bf16 only where the processor computes in it natively; `tokenizer`
  and `weights` give one of them, so that records can be checked before a long load.
- `serve` runs llama.cpp's server in a child process: a crash in native code cannot take the notebook down. The child
  takes a free port by itself, so none can be snatched in between, and reports it.
- The child lives as long as the pipe to its standard input: it ends when the parent does, however the parent ends.
- The port is on loopback and asks for a key drawn for this run.
"""

import contextlib
import hashlib
import json
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbtlib import CbtError, backbones, cache, embedded


@dataclass(frozen=True)
class Endpoint:
    """Where to send requests: `AsyncOpenAI(base_url=e.base_url, api_key=e.api_key)` and `model=e.model`.

    `name` is for people. `fingerprint` tells whether an earlier answer came from the same weights and software.
    """

    base_url: str
    api_key: str = field(repr=False)
    model: str
    name: str
    fingerprint: str


# ------------------------------------------------------------------------------------------------ the weights


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
                f"into posts, or take it out ({texts[number - 1][:20]!r}…)"
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
        parts = [_recorded(embedded.gguf_file(model)), str(embedded.FORMAT)]
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


# ----------------------------------------------------------------------------------------------- the endpoint


@contextlib.contextmanager
def connect(model: str | None = None) -> Iterator[Endpoint]:
    """The endpoint named by OPENAI_BASE_URL and OPENAI_API_KEY, or a local one where they are not set.

    "embedded" and "smoke" are always served here. A remote endpoint with one model needs no name. Raises CbtError for
    half a setting, a remote model without an endpoint, or an endpoint that does not answer.
    """
    url, key = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
    if model in embedded.NAMES or (model is None and not url and not key):
        with serve(model or "embedded") as endpoint:
            yield endpoint
        return
    if not url or not key:
        have, lack = ("OPENAI_BASE_URL", "OPENAI_API_KEY") if url else ("OPENAI_API_KEY", "OPENAI_BASE_URL")
        raise CbtError(
            (f"{have} is set but {lack} is not" if url or key else f"there is no endpoint for the model '{model}'")
            + ": set both (any word will do as the key of a server that asks for none), "
            "or take the model 'embedded', which is served here"
        )
    _check_address(url, key)
    name = model or _only_model(url, key)
    print_of = hashlib.sha256(f"{url.rstrip('/')} {name}".encode()).hexdigest()
    yield Endpoint(url, key, name, f"{name} at {url}", print_of)


def _check_address(url: str, key: str) -> None:
    """CbtError, without the secret, for a URL or a key that cannot be sent or would be written down."""
    if re.search(r"//[^/]*@", url):
        raise CbtError(
            "OPENAI_BASE_URL holds a user or a password, and the URL is written into manifests: take it out and put "
            "the key into OPENAI_API_KEY"
        )
    try:
        urllib.parse.urlsplit(url)
        whole = re.fullmatch(r"https?://[^/\s?#]+[^\s?#]*", url)
    except ValueError:  # "http://[::1/v1"
        whole = None
    if not whole:
        raise CbtError(
            f"OPENAI_BASE_URL is '{url}': it must begin with http:// or https:// and a host, usually ends with /v1, "
            "and has no space, ? or #, and no bracket without its other one"
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise CbtError(
            "OPENAI_API_KEY holds a space, a line break or a character outside of ASCII: no key does, copy it again"
        )


def _only_model(url: str, key: str) -> str:
    request = urllib.request.Request(f"{url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            names = [item["id"] for item in json.load(reply)["data"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CbtError(f"{url} does not list its models ({error}): name the model to use, and check the URL") from error
    if len(names) != 1:
        raise CbtError(f"{url} has {len(names)} models: name one of them ({', '.join(names[:10]) or 'it lists none'})")
    return names[0]


@contextlib.contextmanager
def serve(
    model: str = "embedded", trimmed: bool = True, slots: int = 4, context: int = 4096, timeout: float = 120
) -> Iterator[Endpoint]:
    """Serve "embedded" or "smoke" on a free loopback port until the block ends, however it ends.

    `slots` requests run at once, each with up to `context` tokens of prompt and answer together. Completions, chat
    completions (`embedded.CHAT_TEMPLATE`) and JSON schemas work. `trimmed` is as in `load`;
    `timeout` is for the start, in seconds.
    Raises CbtError when the server does not start, with the end of its log.
    """
    path = embedded.gguf_file(model, trimmed)
    key = secrets.token_hex(16)
    settings = {"path": str(path), "model": model, "slots": slots, "context": context, "key": key}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "cbtlib.endpoint"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        try:
            address = _started(child, settings, timeout, log)
            yield Endpoint(f"{address}/v1", key, model, _title(model), _fingerprint(path, settings))
        finally:
            _stop(child)


def _started(child: subprocess.Popen, settings: dict[str, Any], timeout: float, log: Any) -> str:
    """Send the child its settings and wait for the line with its address."""
    answers: queue.Queue[str] = queue.Queue()
    assert child.stdin and child.stdout
    threading.Thread(target=lambda out=child.stdout: answers.put(out.readline()), daemon=True).start()
    try:
        child.stdin.write(json.dumps(settings) + "\n")
        child.stdin.flush()
        line = answers.get(timeout=timeout)
        what = f"stopped (exit code {child.wait(5)})" if not line else ""
    except queue.Empty:
        what = f"did not start within {timeout:g} s; close what keeps the machine busy, or give serve a longer timeout"
    except (OSError, subprocess.TimeoutExpired):
        what = "stopped"
    if not what:
        return json.loads(line)["address"]
    log.seek(0)
    tail = " / ".join(log.read().strip().splitlines()[-5:]) or "nothing"
    raise CbtError(f"the server for '{settings['model']}' ({settings['path']}) {what}; its log ends: {tail}")


def _stop(child: subprocess.Popen) -> None:
    assert child.stdin and child.stdout
    with contextlib.suppress(OSError):
        child.stdin.close()  # asks it to end
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    child.stdout.close()


def _title(model: str) -> str:
    return {"embedded": "Gemma 3 270M (embedded)", "smoke": "random weights (smoke)"}[model]


def _fingerprint(path: Path, settings: dict[str, Any]) -> str:
    """Weights, template and server software."""
    import xllamacpp

    parts = (_recorded(path), embedded.CHAT_TEMPLATE, xllamacpp.__version__, "swa_full", settings["context"])
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _recorded(path: Path) -> str:
    """The SHA-256 of a file of the cache, from the manifest beside it."""
    return json.loads((path.parent / "manifest.json").read_text(encoding="utf-8"))[path.name]["sha256"]


def _child() -> None:
    """The child process: serve what the first line of standard input says until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # interrupting a cell must not take the server away
    settings = json.loads(sys.stdin.readline())
    answer = os.dup(1)
    os.dup2(2, 1)  # native code may print to standard output, which belongs to the one line below
    import psutil
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {settings["model"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["key"]]
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["slots"] * settings["context"]
    params.n_gpu_layers = 0
    params.swa_full = True  # with the windows' keys kept, a slot need not read again how the last prompt began too
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # a container or a batch job may hold fewer
        cores = min(cores, len(os.sched_getaffinity(0)))
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads = cores
        # Threads wait for each other at every layer. Polled, that wait takes the core from the one waited for when
        # another program runs too, and several are slower than one. Asleep, they lose nothing.
        threads.poll = 0
    params.chat_template = embedded.CHAT_TEMPLATE
    params.ui = False
    server = xllamacpp.Server(params)
    os.write(answer, (json.dumps({"address": server.listening_address}) + "\n").encode())
    sys.stdin.read()
    os._exit(0)  # at once: there is nothing to save, and the server's own shutdown waits for running requests


if __name__ == "__main__":
    _child()
