"""The endpoint: it answers, it stops for sure, and it says what is wrong."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from urllib.parse import urlparse

import openai
import pytest

from cbtlib import CbtError, embedded, endpoint, models


@pytest.fixture(scope="module")
def smoke():
    with endpoint.serve("smoke") as served:
        yield served


@pytest.fixture(autouse=True)
def no_remote(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def client(served):
    return openai.OpenAI(base_url=served.base_url, api_key=served.api_key, max_retries=0)


def listens(base_url):
    where = urlparse(base_url)
    with socket.socket() as probe:
        return probe.connect_ex((where.hostname, where.port)) == 0


# --------------------------------------------------------------------------------------------------- answers


def test_many_chats_at_once(smoke):
    async def ask():
        async with openai.AsyncOpenAI(base_url=smoke.base_url, api_key=smoke.api_key, max_retries=0) as remote:
            return await asyncio.gather(*(
                remote.chat.completions.create(
                    model=smoke.model, max_tokens=8, messages=[{"role": "user", "content": f"第{i}个问题"}]
                ) for i in range(12)
            ))  # fmt: skip

    replies = asyncio.run(ask())
    assert all(reply.choices[0].finish_reason in ("stop", "length") for reply in replies)
    assert all(0 < reply.usage.completion_tokens <= 8 for reply in replies)


def test_a_json_schema_is_enforced(smoke):
    schema = {
        "type": "object",
        "properties": {"challenge": {"type": "string", "maxLength": 8}},
        "required": ["challenge"],
        "additionalProperties": False,
    }
    reply = client(smoke).chat.completions.create(
        model=smoke.model,
        max_tokens=300,
        messages=[{"role": "user", "content": "你好"}],
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}},
    )
    assert list(json.loads(reply.choices[0].message.content)) == ["challenge"]


def test_a_prompt_is_the_chat_template_and_counts_the_tokens_of_the_loaded_tokenizer(smoke):
    messages = [{"role": "system", "content": "你是咨询师。"}, {"role": "user", "content": "睡不着 怎么办？"}]
    _, tokenizer = models.load("smoke")
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert tokenizer.decode(ids) == "<bos>你是咨询师。\n\n问：睡不着 怎么办？\n答："
    reply = client(smoke).chat.completions.create(model=smoke.model, max_tokens=1, messages=messages)
    assert reply.usage.prompt_tokens == len(ids)


def test_the_served_and_the_loaded_model_are_one():
    """llama.cpp on 4-bit weights and transformers on the converted ones agree about the next token."""
    import torch

    prompt = "问：我最近总是失眠，怎么办？\n答："
    model, tokenizer = models.load("embedded", dtype="float32")
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(prompt).input_ids])).logits[0, -1]
    ours = torch.log_softmax(logits, -1)
    with endpoint.serve("embedded", slots=1, context=256) as served:
        reply = client(served).completions.create(model="embedded", prompt=prompt, max_tokens=1, logprobs=5)
    theirs = reply.choices[0].logprobs.model_dump()["content"][0]["top_logprobs"]
    assert len(theirs) == 5 and theirs[0]["id"] == int(ours.argmax())
    assert [item["logprob"] for item in theirs] == pytest.approx([ours[item["id"]].item() for item in theirs], abs=0.3)


def test_what_prompts_begin_with_is_read_once():
    """A worked example in front of each post is most of a prompt; a model with windows would read it each time."""
    example = "【帖子】开会时我一句话也说不出来，散会后觉得大家都在笑我。【回信】那几分钟一定很长。" * 3
    with endpoint.serve("embedded", slots=1, context=512) as served:
        usages = [
            client(served).completions.create(model="embedded", prompt=example + post, max_tokens=1).usage
            for post in ("【帖子】我睡不着。【回信】", "【帖子】我不敢打电话。【回信】")
        ]
    first, second = (usage.prompt_tokens_details.cached_tokens for usage in usages)
    assert first == 0 and second > 0.8 * usages[1].prompt_tokens


def test_a_wrong_key_is_refused(smoke):
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=smoke.base_url, api_key="other", max_retries=0).models.list()


def test_the_key_is_not_shown(smoke):
    assert smoke.api_key not in repr(smoke) and smoke.base_url.startswith("http://127.0.0.1:")


# ---------------------------------------------------------------------------------------------- start and stop


def test_servers_take_their_own_ports_and_are_gone_afterwards(smoke):
    with endpoint.serve("smoke") as other:
        assert listens(other.base_url) and listens(smoke.base_url) and other.base_url != smoke.base_url
        assert other.fingerprint == smoke.fingerprint and other.api_key != smoke.api_key
    assert not listens(other.base_url)


def test_an_exception_stops_the_server():
    with pytest.raises(ZeroDivisionError), endpoint.serve("smoke") as served:
        assert listens(served.base_url)
        raise ZeroDivisionError
    assert not listens(served.base_url)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is Unix")
def test_the_server_does_not_outlive_a_killed_notebook():
    code = "from cbtlib import endpoint\nwith endpoint.serve('smoke') as e: print(e.base_url, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        base_url = parent.stdout.readline().strip()
        assert listens(base_url)
        parent.send_signal(signal.SIGKILL)
    for _ in range(100):
        if not listens(base_url):
            break
        time.sleep(0.1)
    assert not listens(base_url)


def test_a_start_that_takes_too_long_is_an_error():
    with (
        pytest.raises(CbtError, match=r"'smoke' .* did not start within 0.001 s"),
        endpoint.serve("smoke", timeout=0.001),
    ):
        pass


def test_a_server_that_cannot_start_shows_its_log(monkeypatch, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setattr(embedded, "gguf_file", lambda *_: tmp_path / "model.gguf")
    with (
        pytest.raises(CbtError, match=r"stopped .*log ends: .*RuntimeError|stopped .*log ends: .*[Ff]ailed"),
        endpoint.serve("smoke"),
    ):
        pass


# ---------------------------------------------------------------------------------------------------- connect


@pytest.fixture
def remote():
    """A server that lists the models it is told to."""

    class Handler(BaseHTTPRequestHandler):
        models = ("qwen",)

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": [{"id": name} for name in self.models]}).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", Handler
    server.shutdown()
    server.server_close()


def refused(model=None):
    with pytest.raises(CbtError) as caught, endpoint.connect(model):
        pass
    return str(caught.value)


def test_a_remote_endpoint_is_taken_from_the_environment(monkeypatch, remote):
    url, handler = remote
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with endpoint.connect("deepseek") as named, endpoint.connect() as found:
        assert (named.base_url, named.api_key, named.model) == (url, "secret", "deepseek")
        assert found.model == "qwen" and found.fingerprint != named.fingerprint
    handler.models = ("a", "b")
    assert "has 2 models: name one of them (a, b)" in refused()


def test_the_local_models_are_served_even_with_a_remote_endpoint_set(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with endpoint.connect("smoke") as served:
        assert served.model == "smoke" and served.base_url.startswith("http://127.0.0.1:") and listens(served.base_url)


def test_half_a_setting_is_refused(monkeypatch):
    assert "no endpoint for the model 'gpt'" in refused("gpt")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert "OPENAI_API_KEY is set but OPENAI_BASE_URL is not" in refused() and "secret" not in refused()
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert "OPENAI_BASE_URL is set but OPENAI_API_KEY is not" in refused("gpt")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert "does not list its models" in refused()
    monkeypatch.setenv("OPENAI_BASE_URL", "api.example.org")
    assert "must begin with http" in refused("gpt")


@pytest.mark.parametrize(
    ("url", "key", "says"),
    [
        ("https://user:hush-hush@example.org/v1", "k", "holds a user or a password"),
        ("https:///v1", "k", "and a host"),
        ("https://example.org/v1?key=x", "k", "no space, ? or #"),
        ("http://[::1/v1", "k", "no bracket without its other one"),
        ("https://example.org/v1", "hush-hush\n", "copy it again"),
        ("https://example.org/v1", "hush-hush 密钥", "copy it again"),
    ],
)
def test_an_address_or_a_key_that_cannot_be_sent_is_refused_without_the_secret(monkeypatch, url, key, says):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert says in refused("gpt") and "hush-hush" not in refused("gpt")


# ------------------------------------------------------------------------------------------------------- load


def test_smoke_loads_and_writes():
    model, tokenizer = models.load("smoke")
    prompt = tokenizer("你好", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert out.shape == (1, prompt.input_ids.shape[1] + 3) and tokenizer.pad_token == "<pad>"


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(CbtError, match="cannot load the model"):
        models.load(str(tmp_path))


def test_an_unknown_dtype_is_named():
    with pytest.raises(CbtError, match=r"cannot load the model 'smoke'.*float33"):
        models.load("smoke", dtype="float33")


@pytest.mark.parametrize(
    "gpu, native, dtype",
    [
        (None, {}, "float32"),
        (None, {"avx512_bf16": True}, "bfloat16"),
        (None, {"amx_bf16": True}, "bfloat16"),
        ("new", {}, "bfloat16"),
        ("V100", {"amx_bf16": True}, "float16"),
    ],
)
def test_bf16_is_taken_only_where_it_is_native(monkeypatch, gpu, native, dtype):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu == "new")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False} | native)
    assert models.best_dtype() == dtype
