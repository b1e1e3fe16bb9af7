"""A loopback endpoint that fails on purpose: the rehearsal before a paid run.

It speaks as much of the OpenAI API as `generate` uses (chat and plain completions), answers every post with the same
invented letter, and misbehaves as told: which fault comes at which attempt is the caller's decision, so a test or a
chapter can show one failure of each kind, and a benchmark can mix them. It counts what it would have billed, so that a
client's ledger can be held against the server's own count.

No text of this endpoint is a model's answer. Whatever shows its replies has to say so.
"""

import asyncio
import contextlib
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from cbtlib.corpus import PARTS

FAULTS = {
    "ok": "a good answer",
    "rate_limit": "HTTP 429 with Retry-After",
    "server_error": "HTTP 500",
    "hang": "no reply until the deadline, though the tokens are billed",
    "reset": "the connection is reset, though the tokens are billed",
    "cut": "half of the reply's bytes, then the connection closes",
    "garbled": "HTTP 200 with half of the JSON",
    "refusal": "the model declines",
    "filtered": "the endpoint's content filter stops the answer",
    "filtered_400": "the endpoint's content filter turns the request away",
    "length": "the answer stops at the token limit",
    "not_schema": "prose where five JSON fields were asked for",
    "empty": "an answer without text",
    "no_usage": "a good answer without usage figures",
    "english": "an answer in English",
    "no_schema_support": "HTTP 400: response_format is not known here",
    "unauthorised": "HTTP 401, with the key in the message",
    "not_found": "HTTP 404",
    "quota": "HTTP 429: the account is out of credit",
}
LETTER = (
    "一连几天睡不好，还要照常上班，换谁都会又累又烦，你愿意写下来，已经很不容易。",
    "你写“这辈子就这样了”，这句话把今天的累，一下子拉长到了一辈子。",
    "这三年里有没有哪一个星期，是和这句话对不上的？如果是朋友这样说，你会怎么问他？",
    "这两天先挑一件十分钟能做完的小事，比如下楼走一圈，做完记下当时的心情，再和早上比一比。",
    "能把乱糟糟的一天说得这样清楚，说明你还在看着自己的生活。下周这个时候，回头看看那张记录。",
)
ENGLISH = "Thank you for sharing this with me. It sounds like a hard week, and feeling tired makes sense. " * 4
Plan = Callable[[str, int], str]
"""(SHA-256 of the request body, number of this attempt at it from 0) -> a name in FAULTS."""


class Server:
    """What the endpoint saw: `base_url`, `requests`, `faults` by name, `answered` bodies, tokens it would bill."""

    api_key, model, name, fingerprint = "loopback-key", "rehearsal", "loopback rehearsal", "faults"

    def __init__(self, plan: Plan, latency: float, retry_after: float):
        self.plan, self.latency, self.retry_after = plan, latency, retry_after
        self.base_url = ""
        self.requests = self.prompt_tokens = self.completion_tokens = self.active = self.most_active = 0
        self.faults: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one keep-alive connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = (line.partition(b":") for line in head.lower().split(b"\r\n"))
                length = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
                self.active += 1
                self.most_active = max(self.active, self.most_active)
                try:
                    goes_on = await self.respond(head, await reader.readexactly(length), writer)
                finally:
                    self.active -= 1
                if not goes_on:
                    break
        writer.close()

    async def respond(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer one request as planned; returns whether the connection goes on."""
        key = hashlib.sha256(body).hexdigest()
        fault = self.plan(key, self.attempts[key])
        self.attempts[key] += 1
        self.requests += 1
        self.faults[fault] += 1
        # The reply is made first: the latency is then all of the time that a client waits for.
        due = asyncio.get_running_loop().time() + self.latency
        if fault in _REJECTIONS:
            status, message, code = _REJECTIONS[fault]
            secret = head.partition(b"authorization: ")[2] or head.partition(b"Authorization: ")[2]
            message = message.format(key=secret.split(b"\r\n")[0].decode())
            extra = f"retry-after: {self.retry_after}\r\n" if fault == "rate_limit" else ""
            data = json.dumps({"error": {"message": message, "code": code}}).encode()
            await _until(due)
            return await _send(writer, status, data, extra)
        request = json.loads(body)
        reply = _reply(request, fault)
        usage = reply["usage"]
        if fault == "no_usage":
            del reply["usage"]
        data = json.dumps(reply, ensure_ascii=False).encode()
        await _until(due)
        self.prompt_tokens += usage["prompt_tokens"]
        self.completion_tokens += usage["completion_tokens"]
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault == "garbled":
            return await _send(writer, 200, data[: len(data) // 2])
        if fault == "cut":
            await _send(writer, 200, data, cut=len(data) // 2)
            return False
        self.answered[key] += 1
        return await _send(writer, 200, data)


async def _until(due: float) -> None:
    if (wait := due - asyncio.get_running_loop().time()) > 0:
        await asyncio.sleep(wait)


_REJECTIONS = {
    "rate_limit": (429, "too many requests", "rate_limit_exceeded"),
    "server_error": (500, "the server had an error", "server_error"),
    "filtered_400": (400, "the prompt was stopped by the content management policy", "content_filter"),
    "no_schema_support": (400, "response_format of type json_schema is not supported", "unsupported_parameter"),
    "unauthorised": (401, "Incorrect API key provided: {key}", "invalid_api_key"),
    "not_found": (404, "no such path or model", "not_found"),
    "quota": (429, "you exceeded your current quota", "insufficient_quota"),
}


def _reply(request: dict[str, Any], fault: str) -> dict[str, Any]:
    wants_json = "response_format" in request or "json_schema" in request
    text = json.dumps(dict(zip(PARTS, LETTER, strict=True)), ensure_ascii=False) if wants_json else "\n".join(LETTER)
    finish = "stop"
    if fault == "refusal":
        text = "抱歉，我无法就这个话题提供帮助。"
    elif fault == "filtered":
        text, finish = "", "content_filter"
    elif fault == "length":
        text, finish = text[: len(text) // 3], "length"
    elif fault == "not_schema":
        text = "\n".join(LETTER)
    elif fault == "empty":
        text = ""
    elif fault == "english":
        text = json.dumps(dict.fromkeys(PARTS, ENGLISH)) if wants_json else ENGLISH
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
    if "messages" in request:
        choice["message"] = {"role": "assistant", "content": text}
        sent = sum(len(message["content"]) for message in request["messages"])
    else:
        choice["text"] = text
        sent = len(request["prompt"])
    usage = {"prompt_tokens": sent, "completion_tokens": len(text)}  # one token a character: invented, but fixed
    return {
        "id": "rehearsal",
        "object": "completion",
        "created": 0,
        "model": "rehearsal",
        "choices": [choice],
        "usage": usage,
    }


async def _send(
    writer: asyncio.StreamWriter, status: int, data: bytes, extra: str = "", cut: int | None = None
) -> bool:
    head = f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{extra}content-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data[:cut])
    await writer.drain()
    return True


@contextlib.contextmanager
def serve(plan: Plan | str = "ok", latency: float = 0.0, retry_after: float = 0.05) -> Iterator[Server]:
    """Run the endpoint on loopback in a thread; `plan` is a function or the name of one fault for every request."""
    decide = plan if callable(plan) else lambda key, attempt: plan
    server = Server(decide, latency, retry_after)
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        listener = await asyncio.start_server(server.connection, "127.0.0.1", 0, limit=2**20, backlog=1024)
        server.base_url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
        started.set()
        await stop.wait()
        listener.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), name="faults", daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
