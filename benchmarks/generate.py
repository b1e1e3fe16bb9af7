"""Generation against a loopback endpoint: throughput, faults with kills, and a resume of a million rows.

    python benchmarks/generate.py [--quick] [--distilabel PYTHON] [--json OUT]

Four measurements. Ours and the peer run against the same server, in the same process tree, one after the other; the
ideal is N x latency / concurrency.

- *throughput*: N requests at concurrency 64 with 50 ms latency; ours beside a plain script: `AsyncOpenAI` (no retries
  of its own), a semaphore, one `asyncio.gather`, answers kept in memory; and beside bare sockets that send one request
  over and over, which is what this machine and this server allow. Sending is from the first request to the last reply,
  ours with every attempt and every reply in the journal; the whole run has imports, triage and products in it as well.
  With `--distilabel` and the Python of an environment that has distilabel[openai], its pipeline too, on fewer requests
  in batches of 64; its sending has the start of its processes in it. (bespokelabs-curator fetches a tokenizer from the
  network before it starts, so it cannot be measured on a loopback.)
- *faults*: 5% 429, 3% 500, 2% hangs, 2% cut replies, 1% resets and, in the full run, 10 kills with SIGKILL at
  random instants. Answers, duplicates, errors in the data, and whether the ledger brackets the server's own count.
- *resume*: a million rows of which 99.9% are in the journal: seconds and memory until the rest could be sent.
- *triage*: posts a second by the rules alone, which the three above use, and with the classifier, which `cbt generate`
  adds: it runs once for each new post, and its findings are kept in the journal.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from cbtlib import faults, generate, prices, prompts, safety
from cbtlib.generate import Question
from cbtlib.journal import Journal
from cbtlib.sending import Traffic

PROMPT = prompts.get("five_parts_json")
POST = "这个月一直加班，领导在会上又点了我的名字，我总觉得自己什么都做不好，回家也不想说话。"
PRICES = ",".join(prices.COLUMNS) + "\nrehearsal,us,0.50,,2.00,,2026-01-01,benchmark,\n"


class Posts:
    """N posts that exist only while they are looked at, as rows of a file would."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Question]:
        return (Question(f"q{i}", f"第{i}个问题：{i * 7919 % 100003}", POST) for i in range(self.n))


def plan_of(seed: int):
    """Faults by share, on first attempts: 5% 429, 3% 500, 2% hang, 2% cut, 1% reset."""
    kinds = ["rate_limit"] * 5 + ["server_error"] * 3 + ["hang"] * 2 + ["cut"] * 2 + ["reset"] + ["ok"] * 87

    def plan(key: str, attempt: int) -> str:
        return kinds[random.Random(f"{seed}{key}").randrange(100)] if attempt == 0 else "ok"

    return plan


def serve(pipe: Any, latency: float) -> None:
    """A server in a process of its own; says where it is, then waits to be told to stop."""
    with faults.serve("ok", latency=latency) as server:
        pipe.send(server.base_url)
        pipe.recv()


def ours(url: str, n: int, concurrency: int, out: str) -> float:
    """Our run; returns the seconds of sending, as the journal has them."""
    endpoint = SimpleNamespace(base_url=url, api_key="k", model="rehearsal", name="rehearsal", fingerprint="bench")
    summary = generate.generate(Posts(n), PROMPT, endpoint, out, traffic=Traffic(concurrency=concurrency))
    assert summary.outcomes["ok"] == n, summary
    with contextlib.closing(sqlite3.connect(Path(out, "journal.sqlite"))) as journal:
        return journal.execute("SELECT max(ended) - min(sent) FROM attempts").fetchone()[0]


def plain(url: str, n: int, concurrency: int, out: str) -> float:
    """The script one would write: gather over everything, a semaphore, answers in a list."""
    from openai import AsyncOpenAI

    async def main() -> float:
        client = AsyncOpenAI(api_key="k", base_url=url, max_retries=0)
        gate = asyncio.Semaphore(concurrency)

        async def one(post: Question) -> str:
            async with gate:
                body = PROMPT.request(post.question, post.description)
                reply = await client.chat.completions.create(
                    model="rehearsal", max_tokens=1024, temperature=0.7, **body
                )
                return reply.choices[0].message.content or ""

        began = time.perf_counter()
        texts = await asyncio.gather(*(one(post) for post in Posts(n)))
        seconds = time.perf_counter() - began
        assert len(texts) == n and all(texts)
        Path(out, "answers.json").write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
        return seconds

    return asyncio.run(main())


def sockets(url: str, n: int, concurrency: int, _: str) -> float:
    """The same bytes n times over bare sockets; replies are read and dropped."""
    address = urlsplit(url)
    body = _job().body(next(iter(Posts(1))))
    request = f"POST {address.path}/chat/completions HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    turns = iter(range(n))

    async def one() -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        for _ in turns:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.rpartition(b"content-length: ")[2]))
        writer.close()

    async def main() -> float:
        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(concurrency)))
        return time.perf_counter() - began

    return asyncio.run(main())


DISTILABEL = """
import sys, time
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration

url, n, concurrency = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Pipeline(name="benchmark") as pipeline:
    posts = LoadDataFromDicts(data=[{"instruction": f"post {i}"} for i in range(n)], batch_size=concurrency)
    ask = TextGeneration(llm=OpenAILLM(model="rehearsal", base_url=url, api_key="k"), input_batch_size=concurrency)
    posts >> ask
began = time.perf_counter()
found = pipeline.run(use_cache=False)["default"]["train"]
seconds = time.perf_counter() - began
assert len(found) == n and all(found["generation"])
print(seconds)
"""


def distilabel(url: str, n: int, concurrency: int, python: str) -> float:
    """distilabel's pipeline, in the environment that has it."""
    command = [python, "-c", DISTILABEL, url, str(n), str(concurrency)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measured(work, *arguments: Any) -> tuple[Any, float, float]:
    """What a function returns, its seconds and its peak resident MB, in a fresh process."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_timed, args=(sender, work, arguments))
    process.start()
    sender.close()  # so that a child that dies is an EOFError here, not a wait for ever
    found = receiver.recv()
    process.join()
    return found


def _timed(pipe: Any, work, arguments: tuple[Any, ...]) -> None:
    began = time.perf_counter()
    found = work(*arguments)
    pipe.send((found, time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def throughput(n: int, python: str | None, concurrency: int = 64, latency: float = 0.05) -> list[dict[str, Any]]:
    """Rows for ours and the peers, each as a share of the ideal for its number of requests.

    `python`: of an environment with distilabel.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there, latency))
    server.start()
    url = here.recv()
    rows = []
    runs = [("ours, journalled", ours, n), ("gather + semaphore", plain, n), ("bare sockets", sockets, n)]
    for name, work, count in [*runs, *([("distilabel", distilabel, n // 10)] if python else [])]:
        with tempfile.TemporaryDirectory() as out:
            place = python if work is distilabel else out
            sending, seconds, megabytes = measured(work, url, count, concurrency, place)
        ideal = count * latency / concurrency
        row = {"run": name, "requests": count, "ideal": ideal, "sending": sending, "seconds": seconds}
        rows.append(row | {"share_of_ideal": ideal / sending, "whole_share": ideal / seconds, "peak_mb": megabytes})
    here.send("stop")
    server.join()
    return rows


CLIENT = "import sys; sys.path.insert(0, sys.argv[5]); import generate as b; b.client(*sys.argv[1:5])"


def client(url: str, out: str, n: str, price_file: str) -> None:
    """The command that is killed and given again."""
    endpoint = SimpleNamespace(base_url=url, api_key="sk-secret", model="rehearsal", name="rehearsal", fingerprint="f")
    traffic = Traffic(concurrency=64, deadline=2.0)
    generate.generate(Posts(int(n)), PROMPT, endpoint, out, traffic=traffic, price_file=price_file)


def fault_run(n: int, kills: int, seed: int = 0) -> dict[str, Any]:
    """The run with faults and kills; counts on both sides."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, faults.serve(plan_of(seed), latency=0.05, retry_after=0.2) as server:
        out, price_file = Path(folder, "out"), Path(folder, "prices.csv")
        price_file.write_text(PRICES, encoding="utf-8")
        here = str(Path(__file__).parent)
        command = [sys.executable, "-c", CLIENT, server.base_url, str(out), str(n), str(price_file), here]
        killed = 0
        paid_twice = 0
        while True:
            seen, process = server.requests, subprocess.Popen(command)
            while process.poll() is None and server.requests == seen:
                time.sleep(0.01)
            if killed < kills:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(rng.uniform(0.1, max(0.3, n * 0.05 / 64 / kills)))
            if killed < kills and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                with Journal(out / "journal.sqlite") as journal:
                    done = {key.hex(): server.answered[key.hex()] for key in journal.finished()}
                continue
            assert process.wait() == 0
            break
        if killed:
            paid_twice = sum(server.answered[key] > count for key, count in done.items())
        answers = list(generate.read_answers(out / "answers.jsonl"))
        spend = json.loads((out / "manifest.json").read_text("utf-8"))["spend"]
        billed = prices.load(price_file)["rehearsal"].pico(server.prompt_tokens, server.completion_tokens) / 10**6
    return {
        "requests": n,
        "kills": killed,
        "faults": {name: count for name, count in sorted(server.faults.items()) if name != "ok"},
        "answered": sum(answer.outcome == "ok" for answer in answers) / n,
        "duplicates": len(answers) - len({answer.id for answer in answers}),
        "errors_in_data": sum(answer.text != "\n".join(faults.LETTER) for answer in answers if answer.outcome == "ok"),
        "finished_answers_paid_again": paid_twice,
        "lower_bound": spend["lower_micro"] / 10**6,
        "server_count": billed / 10**6,
        "upper_bound": spend["upper_micro"] / 10**6,
        "bounds_hold": spend["lower_micro"] <= billed <= spend["upper_micro"],
    }


def resume(n: int, share: float = 0.999) -> dict[str, Any]:
    """Plan n rows of which `share` is in the journal."""
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder), n, share)
        left, seconds, megabytes = measured(_plan, folder, n)
    return {"rows": n, "left": left, "seconds": seconds, "peak_mb": megabytes}


def _job() -> Any:
    return generate.Job(PROMPT, "rehearsal", generate.Sampling())


def _fill(folder: Path, n: int, share: float) -> None:
    job, done = _job(), int(n * share)
    with Journal(folder / "journal.sqlite") as journal:
        job.claim(journal, SimpleNamespace(name="rehearsal", fingerprint="bench"))
        keys = [job.key(post) for post in Posts(done)]
        journal.add_triaged(dict.fromkeys(keys, "none"), job.triage)
        statement = (
            "INSERT INTO attempts (key, sent, prompt_bound, completion_bound, ended, status, body, outcome) "
            "VALUES (?, ?, 1, 1, 1, 200, '', 'ok')"
        )
        journal._db.execute("BEGIN")
        journal._db.executemany(statement, ((key, float(i)) for i, key in enumerate(keys)))
        journal._db.execute("COMMIT")


def _plan(folder: str, n: int) -> int:
    with Journal(Path(folder, "journal.sqlite")) as journal:
        return len(generate.plan(Posts(n), _job(), journal)[0])


def triage(n: int) -> dict[str, Any]:
    """Posts a second by the rules, and by rules and classifier."""
    from cbtlib import corpus, risk

    posts = [record.post for record in corpus.load_split("train")][:n]
    began = time.perf_counter()
    found = [safety.triage(post) for post in posts]
    rules = time.perf_counter() - began
    classifier = risk.load()
    began = time.perf_counter()
    classifier.look(posts, found)
    return {"posts": len(posts), "rules": len(posts) / rules, "classifier": len(posts) / (time.perf_counter() - began)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a twentieth of the size")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--distilabel", metavar="PYTHON", help="of an environment that has distilabel[openai]")
    chosen = parser.parse_args()
    quick = chosen.quick
    results: dict[str, Any] = {"throughput": throughput(1500 if quick else 22_327, chosen.distilabel)}
    for row in results["throughput"]:
        print(
            "{run:20} {requests:6} requests  sending {sending:6.1f} s, {share_of_ideal:4.0%} of ideal;  "
            "whole run {seconds:6.1f} s, {whole_share:4.0%};  peak {peak_mb:.0f} MB".format(**row)
        )
    results["faults"] = fault_run(500 if quick else 22_327, 2 if quick else 10)
    print("\nfaults and kills")
    for name, value in results["faults"].items():
        print(f"  {name:28} {value}")
    results["resume"] = resume(50_000 if quick else 1_000_000)
    print(
        "\nresume: {rows:,} rows, {left} to send, ready after {seconds:.1f} s, peak {peak_mb:.0f} MB".format(
            **results["resume"]
        )
    )
    results["triage"] = triage(40 if quick else 280)
    print(
        "\ntriage: {rules:,.0f} posts/s by the rules, {classifier:.1f} with the classifier".format(**results["triage"])
    )
    if path := chosen.json:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
