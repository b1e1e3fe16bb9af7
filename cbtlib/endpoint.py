"""An OpenAI-compatible endpoint: a remote one, or a local model served on loopback.

Notable choices:
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
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbtlib import CbtError, cache, embedded
from cbtlib.journal import strike
from cbtlib.sending import client


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
        shown = re.sub(r"[?#].*|^[^/]*@", "…", url)  # a key may stand behind the ?, a password before the @
        raise CbtError(
            f"OPENAI_BASE_URL is '{shown}': it must begin with http:// or https:// and a host, usually ends with /v1, "
            "and has no space, ? or #, and no bracket without its other one"
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise CbtError(
            "OPENAI_API_KEY holds a space, a line break or a character outside of ASCII: no key does, copy it again"
        )


def _only_model(url: str, key: str) -> str:
    from openai import OpenAIError

    try:
        names = [one.id for one in client(Endpoint(url, key, "", "", ""), timeout=30).models.list().data]
    except (OpenAIError, ValueError, AttributeError, TypeError) as error:
        what = strike(str(error), key)
        raise CbtError(f"{url} does not list its models ({what}): name the model to use, and check the URL") from None
    if len(names) != 1:
        raise CbtError(f"{url} has {len(names)} models: name one of them ({', '.join(names[:10]) or 'it lists none'})")
    return names[0]


@contextlib.contextmanager
def serve(
    model: str = "embedded", trimmed: bool = True, slots: int = 4, context: int = 4096, timeout: float = 120
) -> Iterator[Endpoint]:
    """Serve "embedded" or "smoke" on a free loopback port until the block ends, however it ends.

    `slots` requests run at once, each with up to `context` tokens of prompt and answer together. Completions, chat
    completions (`embedded.CHAT_TEMPLATE`) and JSON schemas work. `trimmed` is as in `models.load`;
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

    parts = (cache.recorded(path), embedded.CHAT_TEMPLATE, xllamacpp.__version__, "swa_full", settings["context"])
    return hashlib.sha256(repr(parts).encode()).hexdigest()


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
