"""The OpenAI Batch API behind the keys of `generate`: about half the price, within a day, and as hard to lose.

    submit    plan, journal, upload, start        custom_id = the key of the request, in hex
    status    ask how far the batches are
    collect   fetch what they brought, journal it, write the products

Notable choices:

- Journal first: a batch and its requests are on disk under a name of ours before the endpoint hears of it, and the name
  travels as the batch's metadata. A kill between the two leaves a batch that the next command finds by that name, or
  one that never was; neither is paid twice.
- A request that an open batch holds is not sent by anybody else, `cbt generate` included.
- Replies come in any order, in an output and an error file. A request in neither was not worked on (the batch expired,
  failed or was cancelled): it is not billed, and the next submit or `cbt generate` asks it again.
- The `openai` package speaks the protocol, with its hidden retries off.
"""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbtlib import CbtError, prices, sending
from cbtlib.generate import Job, Summary, finish, micro, plan, price_of
from cbtlib.journal import Batch, Journal, Reply, strike
from cbtlib.prices import Price
from cbtlib.questions import Question
from cbtlib.reading import load_json
from cbtlib.sending import OVERHEAD, Endpoint, Request, judged
from cbtlib.writing import make_folder

if TYPE_CHECKING:
    from openai import OpenAI

MOST_REQUESTS = 50_000
MOST_BYTES = 190 * 2**20
"""What one batch may hold, by OpenAI's limits (50,000 requests, 200 MB)."""
OVER = ("completed", "expired", "cancelled", "failed")


def submit(
    questions: Iterable[Question],
    job: Job,
    endpoint: Endpoint,
    out: Path | str,
    *,
    budget: float | None = None,
    price_file: Path | str = prices.DEFAULT,
) -> list[Batch]:
    """Start batches for every question that has no answer and waits for none; returns those that are open.

    `budget` in dollars is never exceeded: what does not fit, at its most, is left for a later submit.
    """
    price = price_of(job.model, price_file, budget)
    with _open(out, endpoint) as (journal, client):
        job.claim(journal, endpoint)
        todo, _ = plan(questions, job, journal)
        for requests in _packed(map(job.request, todo), price, micro(budget), journal.spend(price).upper_micro or 0):
            name = f"{requests[0].key.hex()[:12]}-{time.time_ns()}"
            journal.open_batch(name, ((r.key, len(r.body) + OVERHEAD, r.most_tokens) for r in requests))
            _start(journal, client, endpoint, name, requests)
        return [batch for batch in journal.batches() if batch.state == "open"]


def status(endpoint: Endpoint, out: Path | str) -> list[tuple[Batch, str, int, int]]:
    """Every batch of the journal with (state, requests completed, requests failed), as journalled once it is over."""
    rows: list[tuple[Batch, str, int, int]] = []
    with _open(out, endpoint) as (journal, client):
        for batch in journal.batches():
            if batch.state == "open" and batch.id:
                with _said(endpoint):
                    found = client.batches.retrieve(batch.id)
                    counts = found.request_counts
                rows.append((batch, found.status, counts.completed if counts else 0, counts.failed if counts else 0))
            else:
                rows.append((batch, batch.state, batch.answered, batch.failed))
    return rows


def collect(
    questions: Iterable[Question],
    job: Job,
    endpoint: Endpoint,
    out: Path | str,
    *,
    price_file: Path | str = prices.DEFAULT,
) -> Summary:
    """Journal what the batches that are over have brought, and write the products of all questions so far.

    `stopped` of the summary says how many requests still wait or have to be submitted again.
    """
    price = price_of(job.model, price_file, None)
    with _open(out, endpoint) as (journal, client):
        silent, problems = 0, []
        for batch in journal.batches():
            if batch.state != "open" or not batch.id:
                continue
            with _said(endpoint):
                found = client.batches.retrieve(batch.id)
                if found.status not in OVER:
                    continue
                files = [file for file in (found.output_file_id, found.error_file_id) if file]
                texts = [_content(client, file) for file in files]
            replies = [reply for text in texts for reply in _replies(text or "", job, endpoint.api_key)]
            state = "gone" if None in texts else found.status
            silent += journal.close_batch(batch.name, state, replies, billed=state == "gone")
            errors = (found.errors.data if found.errors else None) or []
            problems += [error.message for error in errors if error.message]
        job.claim(journal, endpoint)
        _, levels = plan(questions, job, journal)
        waiting = len(journal.waiting())
        stopped = [f"{waiting} requests wait in a batch; collect again later"] if waiting else []
        if silent:
            stopped.append(f"{silent} requests came back without a reply; submit them again")
        stopped += [strike(problem, endpoint.api_key)[:200] for problem in problems[:3]]
        return finish(questions, job, journal, price, endpoint, Path(out), levels, "; ".join(stopped))


# ---------------------------------------------------------------- what goes out


def _packed(
    requests: Iterable[Request], price: Price | None, budget: int | None, spent: int
) -> Iterator[list[Request]]:
    """Requests in lots that one batch may hold, as long as the most that they can cost fits the budget."""
    lot: list[Request] = []
    size = 0
    for request in requests:
        most = price.micro(len(request.body) + OVERHEAD, request.most_tokens, batch=True) if price else 0
        if budget is not None and spent + most > budget:
            break
        spent += most
        if len(lot) == MOST_REQUESTS or size + len(request.body) + 200 > MOST_BYTES:
            yield lot
            lot, size = [], 0
        lot.append(request)
        size += len(request.body) + 200
    if lot:
        yield lot


def _line(request: Request) -> bytes:
    """A request as a line of a batch file; its body is the very bytes that the key is of."""
    head = f'{{"custom_id":"{request.key.hex()}","method":"POST","url":"/v1{request.path}","body":'
    return head.encode() + request.body + b"}\n"


def _start(journal: Journal, client: "OpenAI", endpoint: Endpoint, name: str, requests: list[Request]) -> None:
    import openai

    with _said(endpoint):
        try:
            content = b"".join(map(_line, requests))
            file = client.files.create(file=(f"{name}.jsonl", content), purpose="batch")
            found = client.batches.create(
                input_file_id=_named(file, "file", endpoint),
                endpoint=f"/v1{requests[0].path}",  # type: ignore[arg-type]
                completion_window="24h",
                metadata={"cbt": name},
            )
        except openai.APIStatusError as error:
            if error.status_code < 500:  # it was turned away: nothing waits there
                journal.close_batch(name, "refused", [])
            raise
    journal.name_batch(name, _named(found, "batch", endpoint))


def _named(made: Any, what: str, endpoint: Endpoint) -> str:
    """The id of what an endpoint says it made; the client takes anything with status 200 for that."""
    if not (name := getattr(made, "id", None)) or not isinstance(name, str):
        raise CbtError(f"{endpoint.base_url} made no {what}: its answer has no id; has it a Batch API?")
    return name


# ---------------------------------------------------------------- what comes back


def _content(client: "OpenAI", file: str) -> str | None:
    """What a batch's file holds; None where the endpoint, which keeps it for a time, knows it no more."""
    import openai

    try:
        return client.files.content(file).text
    except openai.NotFoundError:
        return None


def _replies(text: str, job: Job, secret: str) -> Iterator[tuple[bytes, Reply]]:
    """Keys and replies of an output or error file. A line that is none of ours is left out."""
    for line in text.split("\n"):  # not splitlines: an answer may hold one of the other characters that end a line
        try:
            row = load_json(line)
            key, answer, error = bytes.fromhex(row["custom_id"]), row.get("response"), row.get("error")
        except (ValueError, LookupError, TypeError, AttributeError):
            continue
        whole = isinstance(answer, dict) and isinstance(answer.get("status_code"), int) and "body" in answer
        if not whole or not 100 <= answer["status_code"] < 600:
            said = error.get("message") if isinstance(error, dict) else error
            body = strike(json.dumps({"error": error}, ensure_ascii=False), secret)
            yield key, Reply(0, body, None, None, False, "failed", strike(str(said or "no reply"), secret)[:300])
            continue
        code, body = answer["status_code"], json.dumps(answer["body"], ensure_ascii=False)
        body, outcome, detail, sent, written = judged(job.judge, code, body, secret)
        yield key, Reply(code, body, sent, written, not 400 <= code < 500, outcome, detail)


# ---------------------------------------------------------------- the endpoint


@contextmanager
def _open(out: Path | str, endpoint: Endpoint) -> Iterator[tuple[Journal, "OpenAI"]]:
    """The journal and a client; batches that a kill left without an id are looked up first."""
    client = sending.client(endpoint, timeout=300)
    with Journal(make_folder(out) / "journal.sqlite") as journal:
        nameless = {batch.name for batch in journal.batches() if batch.state == "open" and batch.id is None}
        if nameless:
            with _said(endpoint):
                known = {(found.metadata or {}).get("cbt"): found.id for found in client.batches.list(limit=100)}
            for name in nameless:
                if name in known:
                    journal.name_batch(name, known[name])
                else:
                    journal.close_batch(name, "never started", [])
        yield journal, client


@contextmanager
def _said(endpoint: Endpoint) -> Iterator[None]:
    """What goes wrong between here and the endpoint, as one sentence without secrets."""
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        what = f"HTTP {error.status_code}: {error.message}"
    except openai.APIError as error:
        what = f"{type(error).__name__}: {error}"
    except (AttributeError, TypeError, ValueError):  # the client makes of a page of HTML a text, and so no batch
        what = "An answer was none of a Batch API"
    else:
        return
    said: dict[str, Any] = {"what": strike(what, endpoint.api_key)[:300]}
    raise CbtError(
        "{what}. The Batch API of {where} did not do its part; check the key and whether it has a Batch API. "
        "Nothing is lost, the same command goes on".format(where=endpoint.name, **said)
    )
