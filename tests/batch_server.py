"""A loopback server that speaks OpenAI's Batch protocol: files, batches, results out of order, expiry, error files."""

import contextlib
import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cbtlib import faults


class BatchServer:
    """Where to ask, and what was asked: `files` by id, `batches` by id, tokens billed, how often a key was answered."""

    api_key, model, name, fingerprint = "sk-batch-0123456789abcdef", "rehearsal", "loopback batches", "faults"

    def __init__(self) -> None:
        self.base_url = ""
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.answered: Counter[str] = Counter()
        self.prompt_tokens = self.completion_tokens = 0
        self.break_after_create = False  # the batch is made, and its id never arrives
        self.refuse: int | None = None  # a status for every request
        self.page = ""  # what it says in place of any JSON, with status 200

    def work(self, plan: Callable[[str], str] = lambda key: "ok", state: str = "completed") -> None:
        """Bring every batch that is in progress to an end; `plan` gives each key a fault of `faults`, or `silent`."""
        for batch in self.batches.values():
            if batch["status"] != "in_progress":
                continue
            out, wrong = [], []
            lines = self.files[batch["input_file_id"]].splitlines()
            for line in random.Random(0).sample(lines, len(lines)):
                row = json.loads(line)
                key, fault = row["custom_id"], plan(row["custom_id"])
                assert key == hashlib.sha256(line.partition(b'"body":')[2][:-1]).hexdigest()
                if fault == "silent":
                    continue
                if fault == "expired":
                    error = {"code": "batch_expired", "message": "This request could not be executed in time."}
                    wrong.append({"custom_id": key, "response": None, "error": error})
                    continue
                status, body = 200, faults._reply(row["body"], fault)
                if fault in faults._REJECTIONS:
                    status, message, code = faults._REJECTIONS[fault]
                    body = {"error": {"message": message.format(key=self.api_key), "code": code}}
                else:
                    self.answered[key] += 1
                    self.prompt_tokens += body["usage"]["prompt_tokens"]
                    self.completion_tokens += body["usage"]["completion_tokens"]
                reply = {"custom_id": key, "response": {"status_code": status, "body": body}, "error": None}
                (out if status == 200 else wrong).append(reply)
            for field, rows in (("output_file_id", out), ("error_file_id", wrong)):
                if rows:
                    batch[field] = self.keep("".join(json.dumps(row) + "\n" for row in rows).encode())
            batch["status"] = state
            batch["request_counts"] = {"total": len(lines), "completed": len(out), "failed": len(wrong)}

    def keep(self, content: bytes) -> str:
        """Store a file; returns its id."""
        identity = f"file-{len(self.files)}"
        self.files[identity] = content
        return identity


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        pass

    def do_GET(self) -> None:
        owner: BatchServer = self.server.owner  # type: ignore[attr-defined]
        if owner.page:
            return self._send(owner.page.encode(), "text/html")
        *_, kind, last = self.path.partition("?")[0].rstrip("/").split("/")
        if last == "content" and kind not in owner.files:
            return self._json({"error": {"message": f"No such File object: {kind}"}}, 404)
        if last == "content":
            return self._send(owner.files[kind], "application/octet-stream")
        if last == "batches":
            return self._json({"object": "list", "data": [*owner.batches.values()], "has_more": False})
        return self._json(owner.batches[last])

    def do_POST(self) -> None:
        owner: BatchServer = self.server.owner  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["content-length"]))
        if owner.page:
            return self._send(owner.page.encode(), "text/html")
        if owner.refuse:
            message = f"no batches for {self.headers['authorization']}"
            return self._json({"error": {"message": message}}, owner.refuse)
        if self.path.endswith("/files"):
            head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
            parts = message_from_bytes(head + body, policy=HTTP).iter_parts()  # type: ignore[attr-defined]
            content = next(part.get_payload(decode=True) for part in parts if part.get_filename())
            return self._json({"id": owner.keep(content), "object": "file", "purpose": "batch"})
        asked = json.loads(body)
        identity = f"batch_{len(owner.batches)}"
        owner.batches[identity] = {"id": identity, "object": "batch", "status": "in_progress", "created_at": 0, **asked}
        if owner.break_after_create:
            self.close_connection = True
            return None
        return self._json(owner.batches[identity])

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), "application/json", status)

    def _send(self, data: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def serve() -> Iterator[BatchServer]:
    """Run the server on loopback in a thread."""
    owner = BatchServer()
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    listener.owner = owner  # type: ignore[attr-defined]
    owner.base_url = f"http://127.0.0.1:{listener.server_port}/v1"
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield owner
    finally:
        listener.shutdown()
        listener.server_close()
