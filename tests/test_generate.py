"""A paid run: nothing lost, nothing paid twice, nothing made up, whatever the endpoint does."""

import asyncio
import contextlib
import csv
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtlib import (
    ROOT,
    CbtError,
    corpus,
    faults,
    generate,
    journal,
    prices,
    prompts,
    questions,
    replies,
    safety,
    tables,
)
from cbtlib.generate import Question, Sampling
from cbtlib.journal import Journal, Reply
from cbtlib.sending import Traffic, _retry_after, judged

PROMPT = prompts.get("five_parts_json")
QUICK = Traffic(concurrency=8, attempts=3, deadline=2.0)
OUTCOME_OF = {
    "ok": "ok",
    "rate_limit": "failed",
    "server_error": "failed",
    "hang": "failed",
    "reset": "failed",
    "cut": "failed",
    "garbled": "failed",
    "refusal": "refused",
    "filtered": "filtered",
    "filtered_400": "filtered",
    "length": "truncated",
    "not_schema": "unparsed",
    "empty": "unparsed",
    "no_usage": "ok",
    "english": "ok",
    "no_schema_support": "failed",
}
ROW = "rehearsal,us,0.50,,2.00,0.5,2026-01-01,a test,\n"


def posts(n: int) -> list[Question]:
    return [Question(f"q{i}", f"第{i}个问题", "这个月一直加班，总觉得自己什么都做不好。") for i in range(n)]


@pytest.fixture
def price_file(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text(",".join(prices.COLUMNS) + "\n" + ROW, encoding="utf-8")
    return path


@pytest.mark.parametrize(("fault", "outcome"), OUTCOME_OF.items())
def test_each_fault_ends_in_its_outcome_and_only_ok_carries_text(fault, outcome, tmp_path):
    traffic = replace(QUICK, attempts=2, deadline=0.5)
    with faults.serve(fault, retry_after=0) as server:
        (answer,) = generate.run(posts(1), PROMPT, server, tmp_path, traffic=traffic)
    assert answer.outcome == outcome
    assert bool(answer.text) == bool(answer.parts) == (outcome == "ok")
    assert (answer.detail == "") == (outcome == "ok")
    counts = json.loads((tmp_path / "manifest.json").read_text())["outcomes"]
    assert counts == dict.fromkeys(generate.OUTCOMES, 0) | {outcome: 1}


def test_every_fault_of_the_rehearsal_is_tested():
    assert set(faults.FAULTS) == set(OUTCOME_OF) | {"unauthorised", "not_found", "quota"}


@pytest.mark.parametrize(
    ("fault", "advice"), [("unauthorised", "OPENAI_API_KEY"), ("not_found", "base URL"), ("quota", "top up")]
)
def test_what_concerns_every_request_stops_the_run_at_once_with_advice(fault, advice, tmp_path):
    with faults.serve(fault) as server, pytest.raises(CbtError, match=advice):
        generate.run(posts(200), PROMPT, server, tmp_path, traffic=QUICK)
    assert server.requests <= 2 * QUICK.concurrency


def test_an_endpoint_without_structured_outputs_ends_a_run_soon_with_what_to_do(tmp_path):
    with faults.serve("no_schema_support") as server, pytest.raises(CbtError, match="--prompt five_parts"):
        generate.run(posts(200), PROMPT, server, tmp_path, traffic=QUICK)
    assert server.requests <= 4 * QUICK.concurrency
    with faults.serve() as server:
        sampling = Sampling(body={"response_format": None})
        answers = generate.run(posts(3), PROMPT, server, tmp_path, sampling=sampling, traffic=QUICK)
    assert {answer.outcome for answer in answers} == {"unparsed"}, "prose is not taken for five fields"


def test_requests_that_are_turned_away_one_by_one_do_not_stop_the_others(tmp_path):
    with faults.serve(lambda key, attempt: "no_schema_support" if int(key[0], 16) < 4 else "ok") as server:
        answers = generate.run(posts(120), PROMPT, server, tmp_path, traffic=replace(QUICK, concurrency=4))
    assert {answer.outcome for answer in answers} == {"ok", "failed"} and server.requests == 120


def test_an_address_that_sends_other_pages_is_named_soon(tmp_path):
    with faults.serve("garbled") as server, pytest.raises(CbtError, match="sent no chat completion so far"):
        generate.run(posts(200), PROMPT, server, tmp_path, traffic=QUICK)
    assert server.requests <= 4 * QUICK.concurrency


@pytest.mark.parametrize("fault", ["server_error", "hang"])
def test_an_endpoint_that_answers_nothing_ends_the_run_and_loses_nothing(fault, tmp_path):
    impatient = replace(QUICK, attempts=2, deadline=0.3)
    with faults.serve(fault) as server, pytest.raises(CbtError, match="has answered none of 8 requests"):
        generate.run(posts(200), PROMPT, server, tmp_path, traffic=impatient)
    assert server.requests <= 2 * (8 + 2 * QUICK.concurrency)
    with faults.serve() as server:
        answers = generate.run(posts(20), PROMPT, server, tmp_path, traffic=QUICK)
    assert {answer.outcome for answer in answers} == {"ok"}


def test_an_address_that_is_none_is_named(tmp_path):
    nowhere = SimpleNamespace(base_url="http:///v1", api_key="k", model="m", name="n", fingerprint="f")
    with pytest.raises(CbtError, match="http:///v1 cannot be reached"):
        generate.run(posts(5), PROMPT, nowhere, tmp_path, traffic=QUICK)


def test_an_address_where_nobody_listens_is_named(tmp_path):
    with faults.serve() as server:
        pass
    with pytest.raises(CbtError, match="cannot be reached"):
        generate.run(posts(5), PROMPT, server, tmp_path, traffic=QUICK)


def test_passing_faults_are_retried_until_every_question_has_its_answer(tmp_path):
    kinds = ["rate_limit", "server_error", "reset", "cut", "garbled", "ok"]

    def plan(key: str, attempt: int) -> str:
        return kinds[int(key[:4], 16) % len(kinds)] if attempt == 0 else "ok"

    with faults.serve(plan, retry_after=0.01) as server:
        answers = generate.run(posts(60), PROMPT, server, tmp_path, traffic=QUICK)
    assert [answer.id for answer in answers] == [f"q{i}" for i in range(60)]
    assert {answer.outcome for answer in answers} == {"ok"}
    assert set(server.answered.values()) == {1} and server.faults["ok"] == 60


def test_a_second_run_sends_nothing_and_writes_the_same_bytes(tmp_path):
    def products() -> list[bytes]:
        return [(tmp_path / name).read_bytes() for name in ("answers.jsonl", "manifest.json")]

    with faults.serve() as server:
        generate.run(posts(20), PROMPT, server, tmp_path)
        first, sent = products(), server.requests
        generate.run(posts(20), PROMPT, server, tmp_path)
    assert (products(), server.requests) == (first, sent)


def test_failed_questions_are_asked_again_and_finished_ones_are_not(tmp_path):
    with faults.serve(lambda key, attempt: "server_error" if int(key[0], 16) % 2 else "ok") as server:
        first = generate.run(posts(12), PROMPT, server, tmp_path, traffic=replace(QUICK, attempts=1))
        failed = [answer.id for answer in first if answer.outcome == "failed"]
        sent, server.plan = server.requests, lambda key, attempt: "ok"
        second = generate.run(posts(12), PROMPT, server, tmp_path)
    assert failed and server.requests - sent == len(failed)
    assert {answer.outcome for answer in second} == {"ok"}


def test_equal_posts_are_asked_once_and_both_get_the_answer(tmp_path):
    twice = [Question("a", "问题", "描述"), Question("b", "问题", "描述")]
    with faults.serve() as server:
        answers = generate.run(twice, PROMPT, server, tmp_path)
    assert server.requests == 1 and [answer.outcome for answer in answers] == ["ok", "ok"]


def test_crisis_empty_and_overlong_posts_are_never_sent(tmp_path):
    hard = [
        Question("crisis", "我不想活了", "今晚就想结束这一切"),
        Question("empty", " ", "\n"),
        Question("long", "长", "字" * 100_000),
    ]
    with faults.serve() as server:
        answers = generate.run(hard, PROMPT, server, tmp_path)
    assert server.requests == 0
    assert [answer.outcome for answer in answers] == ["crisis", "failed", "failed"]
    assert "empty" in answers[1].detail and "100,00" in answers[2].detail


def test_new_triage_rules_are_applied_to_what_was_answered_under_old_ones(tmp_path, monkeypatch):
    with faults.serve() as server:
        assert generate.run(posts(2), PROMPT, server, tmp_path)[0].outcome == "ok"
        monkeypatch.setattr(safety, "version", lambda: "stricter")
        monkeypatch.setattr(safety, "triage", lambda text: safety.Triage("crisis" if "第0个" in text else "none"))
        for _ in range(2):  # found anew, and remembered
            answers = generate.run(posts(2), PROMPT, server, tmp_path)
            assert [answer.outcome for answer in answers] == ["crisis", "ok"] and not answers[0].text
    assert server.requests == 2


def test_triage_that_was_interrupted_goes_on_where_it_stopped_and_is_kept_by_a_merge(tmp_path, monkeypatch):
    looked = []

    def triage(text):
        looked.append(text)
        if len(looked) == 5:
            raise KeyboardInterrupt
        return safety.Triage("crisis" if "第1个" in text else "none")

    monkeypatch.setattr(safety, "triage", triage)
    monkeypatch.setattr(generate, "_BLOCK", 2)
    with faults.serve() as server:
        with pytest.raises(KeyboardInterrupt):
            generate.run(posts(6), PROMPT, server, tmp_path / "a")
        assert server.requests == 0
        answers = generate.run(posts(6), PROMPT, server, tmp_path / "a")
        assert [answer.outcome for answer in answers] == ["ok", "crisis", "ok", "ok", "ok", "ok"]
        assert len(looked) == 5 + 2  # two blocks were done; the third is looked at again
        generate.merge([tmp_path / "a"], tmp_path / "all")
        assert generate.run(posts(6), PROMPT, server, tmp_path / "all") == answers
    assert len(looked) == 5 + 2 and server.requests == 5


def test_levels_are_remembered(tmp_path, monkeypatch):
    looked = []

    def triage(text):
        looked.append(text)
        return safety.Triage(next((level for level in ("concern", "crisis") if level in text), "none"))

    monkeypatch.setattr(safety, "triage", triage)
    asked = [Question(level, level, "这个月一直加班。") for level in safety.LEVELS]
    with faults.serve() as server:
        for _ in range(2):
            answers = generate.run(asked, PROMPT, server, tmp_path / "a")
            assert [answer.triage for answer in answers] == list(safety.LEVELS) and len(looked) == len(asked)
        generate.merge([tmp_path / "a"], tmp_path / "all")
        assert generate.run(asked, PROMPT, server, tmp_path / "all") == answers
    assert len(looked) == len(asked) and server.requests == 2


def test_odd_characters_reach_the_endpoint_as_data(tmp_path):
    odd = [Question("emoji", "😭👨‍👩‍👧", "第一行\r\n第二行\x00\x1b[2J \ud800 <|im_end|>")]
    with faults.serve() as server:
        (answer,) = generate.run(odd, PROMPT, server, tmp_path)
    assert answer.outcome == "ok"


def test_requests_go_by_the_proxy_that_the_environment_names(tmp_path, monkeypatch):
    elsewhere = SimpleNamespace(
        base_url="http://endpoint.invalid/v1", api_key="k", model="m", name="n", fingerprint="f"
    )
    with faults.serve() as server:
        monkeypatch.setenv("http_proxy", server.base_url.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        assert {answer.outcome for answer in generate.run(posts(2), PROMPT, elsewhere, tmp_path / "a")} == {"ok"}
        monkeypatch.setenv("no_proxy", "endpoint.invalid")
        with pytest.raises(CbtError, match="cannot be reached"):
            generate.run(posts(2), PROMPT, elsewhere, tmp_path / "b", traffic=QUICK)
    assert server.requests == 2


def test_a_pause_that_is_no_number_is_none():
    assert [_retry_after(value, None) for value in ("nan", "-5", "inf", "x", "1500")] == [0, 0, 600, 0, 1.5]


def test_concurrency_is_bounded_and_drops_when_the_endpoint_pushes_back(tmp_path):
    with faults.serve(latency=0.02) as server:
        generate.run(posts(60), PROMPT, server, tmp_path, traffic=replace(QUICK, concurrency=5))
    assert server.most_active == 5


@pytest.mark.parametrize("limit", [{"requests_per_minute": 1500}, {"tokens_per_minute": 1500 * 2000}])
def test_limits_a_minute_space_the_requests(limit, tmp_path):
    seen = []

    def plan(key: str, attempt: int) -> str:
        seen.append(time.monotonic())
        return "ok"

    body = len(generate.request_body(posts(1)[0], PROMPT, "rehearsal", Sampling()))
    gap = 60 / 1500 if "requests_per_minute" in limit else (body + 256 + 1024) / limit["tokens_per_minute"] * 60
    with faults.serve(plan) as server:
        generate.run(posts(12), PROMPT, server, tmp_path, traffic=replace(QUICK, **limit))
    assert seen[-1] - seen[0] >= 11 * gap / 2, "requests can come later than their turn, and never all at once"


# ------------------------------------------------------------------ money


def test_the_ledger_brackets_what_the_server_counted(tmp_path, price_file):
    kinds = ["ok", "ok", "hang", "reset", "cut", "no_usage", "rate_limit", "server_error"]
    rng = random.Random(0)
    with faults.serve(lambda key, attempt: rng.choice(kinds), retry_after=0) as server:
        summary = generate.generate(
            posts(40),
            PROMPT,
            server,
            tmp_path,
            price_file=price_file,
            traffic=replace(QUICK, deadline=0.5, concurrency=20),
        )
    price = prices.load(price_file)["rehearsal"]
    billed = price.pico(server.prompt_tokens, server.completion_tokens) / 10**6
    assert summary.spend.lower_micro <= billed <= summary.spend.upper_micro
    assert summary.spend.unseen > 0 and summary.spend.lower_micro > 0


def test_a_budget_is_never_exceeded_and_a_larger_one_goes_on(tmp_path, price_file):
    options = {"price_file": price_file, "sampling": Sampling(max_tokens=300)}
    with faults.serve() as server:
        short = generate.generate(posts(200), PROMPT, server, tmp_path, budget=0.05, **options)
        price = prices.load(price_file)["rehearsal"]
        assert price.micro(server.prompt_tokens, server.completion_tokens) <= short.spend.upper_micro <= 50_000
        assert 0 < short.outcomes["ok"] < 200 and "budget" in short.stopped
        assert short.outcomes["ok"] + short.outcomes["failed"] == 200
        assert short.spend.upper_micro > 40_000, "most of the budget can be used"
        rest = generate.generate(posts(200), PROMPT, server, tmp_path, budget=5.0, **options)
    assert rest.outcomes["ok"] == 200 and set(server.answered.values()) == {1}


def test_an_unpriced_model_is_unpriced_and_cannot_have_a_budget(tmp_path):
    with faults.serve() as server:
        summary = generate.generate(posts(2), PROMPT, server, tmp_path)
        assert summary.spend.lower_micro is None and summary.spend.upper_micro is None
        assert json.loads((tmp_path / "manifest.json").read_text())["price"] == "unpriced"
        with pytest.raises(CbtError, match="no price"):
            generate.generate(posts(2), PROMPT, server, tmp_path, budget=1.0)


def test_an_answer_without_usage_has_no_price_and_widens_the_bounds(tmp_path, price_file):
    with faults.serve("no_usage") as server:
        (answer,) = generate.run(posts(1), PROMPT, server, tmp_path, price_file=price_file)
    spend = json.loads((tmp_path / "manifest.json").read_text())["spend"]
    assert answer.outcome == "ok" and answer.cost_micro is None
    assert spend["lower_micro"] == 0 < spend["upper_micro"]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=20))
def test_rounded_costs_never_sum_to_less_than_the_bill(usages):
    price = next(iter(prices.load().values()))
    assert sum(price.micro(*usage) for usage in usages) * 10**6 >= sum(price.pico(*usage) for usage in usages)


def test_the_price_file_is_dated_sourced_and_strict(tmp_path):
    rows = prices.load()
    assert len(rows) >= 5 and all(row.as_of >= "2026" and row.source for row in rows.values())
    assert prices.find("openai/gpt-4o-mini", rows) is rows["gpt-4o-mini"]
    assert prices.find("gpt-4o-mini-2", rows) is None
    short = [("m,p,abc,,1,,d,s,\n", "input"), (ROW + ROW, "second price"), ("m,p,-1,,1,,d,s,\n", "input")]
    more = (f"{ROW.rstrip()},or,more\n", "line 2: has another number of cells than the header's 9; put")
    wild = [(f"m,p,1,,{x},,d,s,\n", "line 2, column output: ") for x in ("nan", "inf", "-inf", "1e999999999")]
    wild += [(f"m,p,1,,1,{x},d,s,\n", "line 2, column batch_share: ") for x in ("nan", "inf", "1/0")]
    later = ("\n" + ROW + "m,p,abc,,1,,d,s,\n", "line 4, column input")
    for text, message in [*short, more, *wild, later]:
        path = tmp_path / "bad.csv"
        path.write_text(",".join(prices.COLUMNS) + "\n" + text, encoding="utf-8")
        with pytest.raises(CbtError, match=message):
            prices.load(path)


def test_a_forecast_from_a_sample_covers_the_total_of_the_whole():
    rng = random.Random(1)
    price = prices.load()["gpt-4o-mini"]
    covered = 0
    for _ in range(200):
        usages = [(rng.randint(600, 1400), rng.randint(200, 900)) for _ in range(1000)]
        total = sum(price.pico(*usage) for usage in usages) / 10**6
        _, low, high = prices.forecast(rng.sample(usages, 30), 1000, price).cost_micro
        covered += low <= total <= high
    assert covered >= 180


# ------------------------------------------------------------------ journal

CLIENT = """
import sys
from pathlib import Path
from types import SimpleNamespace
from cbtlib import generate, prompts
from cbtlib.generate import Question
from cbtlib.sending import Traffic
url, out, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
endpoint = SimpleNamespace(base_url=url, api_key="sk-very-secret-0123456789", model="rehearsal")
endpoint.name = endpoint.fingerprint = "loopback"
posts = [Question(f"q{i}", f"第{i}个问题", "这个月一直加班，总觉得自己什么都做不好。") for i in range(n)]
generate.generate(posts, prompts.get("five_parts_json"), endpoint, out, price_file=sys.argv[4],
                  traffic=Traffic(concurrency=16, deadline=1.0))
"""


def test_kill_9_at_any_instant_loses_nothing_and_pays_nothing_finished_twice(tmp_path, price_file):
    n, rng, out = 250, random.Random(3), tmp_path / "out"
    faulty = {0: "rate_limit", 1: "server_error", 2: "cut", 3: "reset", 4: "garbled"}

    def plan(key: str, attempt: int) -> str:
        return faulty.get(int(key[:2], 16) % 40, "ok") if attempt == 0 else "ok"

    with faults.serve(plan, latency=0.03, retry_after=0.05) as server:
        command = [sys.executable, "-c", CLIENT, server.base_url, str(out), str(n), str(price_file)]
        kills = 0
        for _ in range(4):
            process = subprocess.Popen(command)
            with contextlib.suppress(subprocess.TimeoutExpired):
                seen = server.requests
                while process.poll() is None and server.requests == seen:
                    time.sleep(0.01)
                process.wait(rng.uniform(0.02, 0.3))
            if process.poll() is None:
                process.kill()
                kills += 1
            elif process.returncode == 0:
                break
            process.wait()
        finished_before = _finished(out / "journal.sqlite")
        paid_before = dict(server.answered)
        assert subprocess.run(command, check=False).returncode == 0
    assert kills >= 2
    answers = list(generate.read_answers(out / "answers.jsonl"))
    assert [answer.id for answer in answers] == [f"q{i}" for i in range(n)]
    assert {answer.outcome for answer in answers} == {"ok"}
    for key in finished_before:
        assert server.answered[key] == paid_before[key], "a finished answer was paid again"
    spend = json.loads((out / "manifest.json").read_text())["spend"]
    billed = prices.load(price_file)["rehearsal"].pico(server.prompt_tokens, server.completion_tokens) / 10**6
    assert spend["lower_micro"] <= billed <= spend["upper_micro"]
    assert b"very-secret" not in b"".join(path.read_bytes() for path in out.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="no process there is sent a SIGINT")
@pytest.mark.parametrize(
    ("plan", "latency", "ok"), [("ok", 0.7, True), ("rate_limit", 0.0, False)], ids=["in flight", "in a pause"]
)
def test_ctrl_c_awaits_what_is_in_flight_and_no_pause(plan, latency, ok, tmp_path, price_file):
    client = f"import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n{CLIENT}"
    client = client.replace("deadline=1.0", "deadline=30").replace("concurrency=16", "concurrency=4")
    with faults.serve(plan, latency=latency, retry_after=100) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", client, server.base_url, str(tmp_path), "60", str(price_file)]
        )
        while process.poll() is None and server.requests < 4:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        assert manifest["stopped"] == "interrupted" and manifest["spend"]["unseen"] == 0
        assert manifest["outcomes"]["ok"] == len(server.answered) and bool(server.answered) == ok
        assert server.requests < 60


def _finished(path: Path) -> set[str]:
    with Journal(path) as journal:
        return {key.hex() for key in journal.finished()}


def test_an_attempt_is_on_disk_before_it_is_sent(tmp_path):
    seen = []

    def plan(key: str, attempt: int) -> str:
        # Whatever a kill at this instant would leave: a copy of the files as they are now.
        copy = tmp_path / f"copy-{key[:8]}"
        copy.mkdir()
        for file in (tmp_path / "out").glob("journal.sqlite*"):
            (copy / file.name).write_bytes(file.read_bytes())
        with sqlite3.connect(copy / "journal.sqlite") as db:
            seen.append(
                db.execute(
                    "SELECT count(*) FROM attempts WHERE key = ? AND ended IS NULL", (bytes.fromhex(key),)
                ).fetchone()[0]
            )
        return "ok"

    with faults.serve(plan) as server:
        generate.run(posts(3), PROMPT, server, tmp_path / "out", traffic=replace(QUICK, concurrency=1))
    assert seen == [1, 1, 1]


def test_two_runs_into_one_folder_are_refused(tmp_path):
    with Journal(tmp_path / "journal.sqlite"), faults.serve() as server, pytest.raises(CbtError, match="in use"):
        generate.run(posts(1), PROMPT, server, tmp_path)


def test_a_journal_of_another_model_is_refused(tmp_path):
    with faults.serve() as server:
        generate.run(posts(1), PROMPT, server, tmp_path)
        server.model = "another"
        with pytest.raises(CbtError, match="another --out"):
            generate.run(posts(1), PROMPT, server, tmp_path)


def test_a_journal_of_another_endpoint_is_refused_or_its_answers_would_go_by_the_new_name(tmp_path):
    with faults.serve() as server:
        generate.run(posts(1), PROMPT, server, tmp_path)
        server.fingerprint = "other weights"
        with pytest.raises(CbtError, match=r"holds answers of loopback rehearsal, .* another --out"):
            generate.run(posts(1), PROMPT, server, tmp_path)


def test_a_kill_between_answers_and_manifest_leaves_no_manifest_of_the_run_before(tmp_path, monkeypatch):
    with faults.serve() as server:
        generate.run(posts(1), PROMPT, server, tmp_path)
        plain = generate.write_lines

        def killed(path, lines):
            if path.name == "manifest.json":
                raise KeyboardInterrupt
            plain(path, lines)

        monkeypatch.setattr(generate, "write_lines", killed)
        with pytest.raises(KeyboardInterrupt):
            generate.run(posts(1), PROMPT, server, tmp_path, sampling=generate.Sampling(temperature=0.1))
    assert (tmp_path / "answers.jsonl").exists() and not (tmp_path / "manifest.json").exists()


def test_a_clock_that_ticks_seldom_mixes_up_no_attempts(tmp_path, monkeypatch):
    """Windows' ticks 64 times a second, and a request that was turned away is sent again within less."""
    monkeypatch.setattr(journal, "time", SimpleNamespace(time=lambda: 1e9))
    with faults.serve(lambda key, attempt: "ok" if attempt else "server_error", retry_after=0.01) as server:
        found = generate.run(posts(3), PROMPT, server, tmp_path, traffic=QUICK)
    assert [one.outcome for one in found] == ["ok"] * 3 and server.requests == 6


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / "journal.sqlite").write_bytes(b"not a database" * 100)
    with faults.serve() as server, pytest.raises(CbtError, match="cannot be used as a journal"):
        generate.run(posts(1), PROMPT, server, tmp_path)


def test_a_full_disk_is_said_and_what_was_there_is_kept(tmp_path):
    with faults.serve() as server:
        generate.run(posts(5), PROMPT, server, tmp_path)
        with Journal(tmp_path / "journal.sqlite") as journal:
            pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
            journal._db.execute(f"PRAGMA max_page_count = {pages + 1}")
            from cbtlib.sending import Sender

            job = generate.Job(PROMPT, server.model, Sampling(), None)
            with pytest.raises(CbtError, match="free some disk space"):
                Sender(journal, server, QUICK, job.judge).run(posts(60)[5:], job.request)
        answers = generate.run(posts(60), PROMPT, server, tmp_path)
    assert {answer.outcome for answer in answers} == {"ok"}


def test_a_recorded_journal_is_replayed_without_a_file_beside_it_and_one_in_use_is_not(tmp_path):
    with faults.serve() as server:
        recorded = generate.run(posts(6), PROMPT, server, tmp_path / "a")
    path = tmp_path / "a" / "journal.sqlite"
    before = sorted(path.parent.iterdir())
    with Journal(path, read_only=True) as journal:  # in a folder that cannot be written to SQLite could make no other
        assert len(journal.finished()) == 6 and sorted(path.parent.iterdir()) == before
    with Journal(path) as journal, pytest.raises(CbtError, match="in use"):
        journal.set_meta(note="another run")
        generate.run(posts(6), PROMPT, server, tmp_path / "b", replay=path)
    assert generate.run(posts(6), PROMPT, server, tmp_path / "b", replay=path) == recorded


@pytest.mark.skipif(os.name == "nt", reason="a link needs a privilege there")
def test_a_journal_behind_a_link_is_read_with_what_a_killed_run_left_beside_it(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").mkdir()
    (tmp_path / "link/journal.sqlite").symlink_to(tmp_path / "real/journal.sqlite")
    script = (
        "import os, sys; from cbtlib.journal import Journal; journal = Journal(sys.argv[1]); "
        "journal.set_meta(note='kept'); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "real/journal.sqlite")], check=False)
    assert done.returncode == 9 and (tmp_path / "real/journal.sqlite-wal").stat().st_size
    with Journal(tmp_path / "link/journal.sqlite", read_only=True) as journal:
        assert journal.meta()["note"] == "kept"


def _full(journal: Journal) -> None:
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")


def test_a_disk_that_fills_while_triage_is_written_or_journals_are_merged_is_said_too(tmp_path, monkeypatch):
    with faults.serve() as server:
        generate.run(posts(300), PROMPT, server, tmp_path / "a")
        opened = Journal.__enter__
        monkeypatch.setattr(Journal, "__enter__", lambda self: (self._read_only or _full(self), opened(self))[1])
        for do in (
            lambda: generate.run(posts(300), PROMPT, server, tmp_path / "b"),
            lambda: generate.merge([tmp_path / "a"], tmp_path / "c"),
        ):
            with pytest.raises(CbtError, match=r"/[bc]/journal.sqlite could not be written .*free some disk space"):
                do()
        monkeypatch.undo()
        assert server.requests == 300 and generate.merge([tmp_path / "a"], tmp_path / "c") == 300
        answers = generate.run(posts(300), PROMPT, server, tmp_path / "b")
    assert {answer.outcome for answer in answers} == {"ok"}


@pytest.mark.parametrize("command", ["run", "merge"])
def test_a_journal_that_is_broken_inside_is_named(tmp_path, command):
    with faults.serve() as server:
        generate.run(posts(200), PROMPT, server, tmp_path / "a")
        path = tmp_path / "a" / "journal.sqlite"
        raw = path.read_bytes()
        path.write_bytes(raw[:4096] + b"\xff" * (len(raw) - 4096))
        with pytest.raises(CbtError, match=r"a/journal.sqlite cannot be used as a journal"):
            if command == "run":
                generate.run(posts(200), PROMPT, server, tmp_path / "a")
            else:
                generate.merge([tmp_path / "a"], tmp_path / "b")


def test_replay_needs_no_endpoint_and_a_changed_request_is_a_miss_that_says_so(tmp_path):
    with faults.serve() as server:
        recorded = generate.run(posts(6), PROMPT, server, tmp_path / "a")
    replayed = generate.run(posts(6), PROMPT, server, tmp_path / "b", replay=tmp_path / "a" / "journal.sqlite")
    assert replayed == recorded
    with pytest.raises(CbtError, match=r"no reply to 6 of the requests .*temperature"):
        journal = tmp_path / "a" / "journal.sqlite"
        generate.run(posts(6), PROMPT, server, tmp_path / "c", replay=journal, sampling=Sampling(temperature=0.1))
    with pytest.raises(CbtError, match="no journal"):
        generate.run(posts(6), PROMPT, server, tmp_path / "c", replay=tmp_path / "none.sqlite")
    with Journal(tmp_path / "empty.sqlite"):
        pass
    for model in (None, "m"):
        with pytest.raises(CbtError, match=r"empty\.sqlite has recorded no request yet"):
            generate.recorded(tmp_path / "empty.sqlite", model)


def test_a_replay_repeats_what_failed_and_says_what_has_no_reply(tmp_path):
    with faults.serve(lambda key, attempt: "server_error" if int(key[0], 16) % 2 else "ok") as server:
        recorded = generate.run(posts(12), PROMPT, server, tmp_path / "a", traffic=replace(QUICK, attempts=1))
    assert {answer.outcome for answer in recorded} == {"ok", "failed"}
    journal = tmp_path / "a" / "journal.sqlite"
    assert generate.run(posts(12), PROMPT, server, tmp_path / "b", replay=journal) == recorded
    with pytest.raises(CbtError, match=r"no reply to 1 of .*: question q12\); the questions changed, or that run"):
        generate.run(posts(13), PROMPT, server, tmp_path / "b", replay=journal)


def test_shards_share_the_work_without_overlap_and_merging_twice_changes_nothing(tmp_path):
    with faults.serve() as server:
        parts = [tmp_path / f"part{i}" for i in (1, 2, 3)]
        for i, part in enumerate(parts, 1):
            generate.run(posts(30), PROMPT, server, part, shard=(i, 3))
        assert server.requests == 30
        assert generate.merge(parts, tmp_path / "all") == 30
        assert generate.merge(parts, tmp_path / "all") == 0
        answers = generate.run(posts(30), PROMPT, server, tmp_path / "all")
    assert server.requests == 30 and {answer.outcome for answer in answers} == {"ok"}


def test_a_better_parser_reads_an_old_journal_without_a_call(tmp_path, monkeypatch):
    with faults.serve("not_schema") as server:
        (before,) = generate.run(posts(1), PROMPT, server, tmp_path)
        monkeypatch.setattr(prompts, "parse", lambda text: dict(zip(prompts.PARTS, text.split("\n"), strict=True)))
        (after,) = generate.run(posts(1), PROMPT, server, tmp_path)
    assert (before.outcome, after.outcome, server.requests) == ("unparsed", "ok", 1)


def test_secrets_are_struck_from_what_an_endpoint_says(tmp_path, capfd):
    with faults.serve(lambda key, attempt: "ok" if attempt else "unauthorised") as server:
        server.api_key = "sk-proj-abcdefghijklmnop"
        with pytest.raises(CbtError) as raised:
            generate.run(posts(3), PROMPT, server, tmp_path)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir()) + "".join(capfd.readouterr()).encode()
    assert b"abcdefghijklmnop" not in written and "abcdefghijklmnop" not in str(raised.value)


def test_an_error_that_came_as_http_200_is_struck_too_however_short_the_detail_is_cut():
    secret = "abcdefghijklmnop"
    for filler in range(0, 120, 5):
        body = json.dumps({"error": "x" * filler + secret})
        kept = judged(generate.Job(PROMPT, "m", Sampling()).judge, 200, body, secret)
        assert kept[1] == "failed" and "abcdef" not in "".join(kept[:3])


@pytest.mark.parametrize("placeholder", ["k", "EMPTY", "none"])
def test_the_placeholder_key_of_a_local_server_does_not_eat_letters_of_answers(tmp_path, placeholder):
    with faults.serve() as server:
        server.api_key = placeholder
        (answer,) = generate.run(posts(1), PROMPT, server, tmp_path)
    assert answer.text == "\n".join(faults.LETTER) and answer.prompt_tokens


# ------------------------------------------------------------------ requests and replies


@given(st.text(), st.text())
def test_the_key_is_the_hash_of_what_is_sent(question, description):
    body = generate.request_body(Question("x", question, description), PROMPT, "m", Sampling())
    assert generate.key_of(body) == hashlib.sha256(body).digest()
    messages = json.loads(body)["messages"]
    assert messages == PROMPT.messages(question, description)
    assert body == json.dumps(json.loads(body), ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def test_a_key_changes_with_everything_that_changes_the_answer_and_with_nothing_else():
    base = Question("x", "问题", "描述")

    def key(question=base, prompt=PROMPT, model="m", sampling=None):
        return generate.key_of(generate.request_body(question, prompt, model, sampling or Sampling()))

    same = key(replace(base, id="other"))
    others = [
        key(replace(base, description="别的")),
        key(prompt=prompts.get("plain")),
        key(model="n"),
        key(sampling=Sampling(seed=1)),
        key(sampling=Sampling(body={"reasoning_effort": "low"})),
    ]
    assert same == key() and len({same, *others}) == 6


def test_fields_of_the_body_can_be_replaced_for_models_that_want_it():
    sampling = Sampling(body={"max_tokens": None, "max_completion_tokens": 500, "temperature": None})
    body = json.loads(generate.request_body(posts(1)[0], PROMPT, "m", sampling))
    assert body["max_completion_tokens"] == 500 and not {"max_tokens", "temperature"} & body.keys()


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({}, 1024),
        ({"max_tokens": 4000}, 4000),
        ({"max_tokens": None, "max_completion_tokens": 500}, 500),
        ({"max_completion_tokens": None, "stream": False, "n": 1}, 1024),
    ],
)
def test_the_bound_of_an_answer_is_the_limit_that_is_sent(body, most):
    job = generate.Job(PROMPT, "m", Sampling(body=body))
    assert job.request(posts(1)[0]).most_tokens == most


@pytest.mark.parametrize(
    "body",
    [
        *({"max_tokens": limit} for limit in (None, 0, -1, "500", 2.5, True)),
        {"max_completion_tokens": "all"},
        *({"model": "another"}, {"messages": []}, {"n": 4}, {"stream": True}),
    ],
)
def test_a_body_that_would_leave_the_budget_without_a_bound_is_refused(body):
    with pytest.raises(CbtError, match=r"max_tokens or|the body sets"):
        generate.Job(PROMPT, "m", Sampling(body=body))


@settings(max_examples=200)
@given(st.integers(100, 599), st.text(max_size=300))
def test_no_junk_reply_is_ever_an_answer(status, body):
    outcome, text, parts, _, detail = generate.classify(status, body, PROMPT)
    assert outcome != "ok" and not text and parts is None and detail


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"choices": []}',
        '{"choices": [{}]}',
        '{"choices": [null]}',
        "null",
        "[]",
        '{"choices": [{"message": 3}]}',
    ],
)
def test_json_without_an_answer_is_failed(body):
    assert generate.classify(200, body, PROMPT)[0] == "failed"


def _ended(finish, **beside):
    choice = {"message": {"content": "慢慢来，先睡一觉。"}, "finish_reason": finish}
    return generate.classify(200, json.dumps({"choices": [choice], **beside}), prompts.get("five_parts"))


@pytest.mark.parametrize(
    ("finish", "outcome"),
    [
        *((finish, "ok") for finish in (None, "stop", "eos", "eos_token", "stop_token", "stop_sequence", "end_turn")),
        *((finish, "truncated") for finish in ("length", "max_tokens")),
        ("content_filter", "filtered"),
        *((finish, "failed") for finish in ("error", "abort", "tool_calls", "insufficient_system_resource", "", {})),
    ],
)
def test_only_an_answer_that_ended_by_itself_is_ok(finish, outcome):
    found, text, _, reason, detail = _ended(finish, error=None)
    assert (found, reason) == (outcome, finish) and bool(text) == (outcome == "ok") != bool(detail)
    assert outcome != "failed" or repr(str(finish)) in detail


def test_an_error_beside_the_choices_is_failed_and_named():
    for error in ({"message": "the upstream broke", "code": 502}, "the upstream broke"):
        found, text, *_, detail = _ended("stop", error=error)
        assert (found, text) == ("failed", "") and "the upstream broke" in detail


def test_an_answer_that_was_aborted_is_asked_again(tmp_path, monkeypatch):
    whole, finishes = faults._reply, ["abort", "stop"]

    def reply(request, fault):
        found = whole(request, fault)
        found["choices"][0]["finish_reason"] = finishes.pop(0)
        return found

    monkeypatch.setattr(faults, "_reply", reply)
    with faults.serve() as server:
        (answer,) = generate.run(posts(1), PROMPT, server, tmp_path, traffic=QUICK)
    assert answer.outcome == "ok" and server.requests == 2


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["好。", "\ud83d", "抱歉，我无法回答\ud83d", "length", "{", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["content", "message"]), inner),
    max_leaves=4,
)


@given(message=st.fixed_dictionaries({}, optional={"content": JSON, "refusal": JSON}) | JSON, finish=JSON, tokens=JSON)
def test_whatever_json_a_reply_is_it_ends_in_an_outcome_that_can_be_written(message, finish, tokens):
    usage = {"prompt_tokens": tokens, "completion_tokens": 1}
    body = json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage, "error": message})
    for status in (200, 400):
        outcome, text, parts, _, detail = generate.classify(status, body, prompts.get("five_parts"))
        assert outcome in generate.OUTCOMES and parts is None and bool(text) == (outcome == "ok") != bool(detail)
        assert f"{text}{detail}".encode()
    counts = generate.usage_of(body)
    assert counts == (None, None) or (counts == (tokens, 1) and 0 <= tokens < 10**9)


def test_half_a_character_in_a_reply_becomes_the_sign_for_it_and_a_whole_one_stays(tmp_path):
    def body(content):
        return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]})

    parts = dict.fromkeys(prompts.PARTS, "好😀\ud83d。")
    for reply, prompt in ((json.dumps(parts), PROMPT), (parts["strategy"], prompts.get("five_parts"))):
        outcome, text, *_ = generate.classify(200, body(reply), prompt)
        assert outcome == "ok" and set(text.split("\n")) == {"好😀\ufffd。"}
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"id": "a\ud83d", "question": "问\ud83d", "description": "😀"}), encoding="utf-8")
    assert questions.read_questions(path) == [Question("a\ufffd", "问\ufffd", "😀")]


@pytest.mark.parametrize("text", ["[" * 200_000, json.dumps({"choices": [{"message": {"content": "[" * 200_000}}]})])
def test_json_nested_beyond_reason_is_no_answer(text):
    assert generate.classify(200, text, PROMPT)[0] in ("failed", "unparsed")
    assert generate.classify(400, text, PROMPT)[0] == "failed" and generate.usage_of(text) == (None, None)


def test_what_cannot_be_written_is_said_and_the_writer_goes_on(tmp_path):
    async def attempts() -> None:
        number = await journal.sending(b"k", 1, 1)
        with pytest.raises(CbtError, match="journal"):
            await journal.received(number, Reply(200, "\ud83d", None, None, True, "ok", ""))
        await journal.received(number, Reply(200, "", None, None, True, "ok", ""))

    with Journal(tmp_path / "journal.sqlite") as journal:
        asyncio.run(asyncio.wait_for(attempts(), 10))
        assert journal.finished() == {b"k"}


def test_a_warm_letter_that_says_sorry_is_not_a_refusal():
    letter = "很抱歉你这一周过得这么难。" + "".join(faults.LETTER) * 2
    body = json.dumps({"choices": [{"message": {"content": letter}, "finish_reason": "stop"}]})
    assert generate.classify(200, body, prompts.get("five_parts"))[0] == "ok"


WARM = """
很抱歉听到你最近一直无法入睡，这一定很累。
对不起，听到你不能见孩子我很难过。
作为AI时代的打工人，你的焦虑很正常。
很遗憾，你没办法改变过去，但可以改变看法。
很抱歉你这阵子不能回家过年，换谁都会失落。
抱歉让你一个人扛了这么久，说不出口的委屈无法用一句话讲完。
对不起，我知道这些话不能马上让你好受。
很遗憾这次考研没能如愿，可一次考试不能定义你。
非常抱歉听到奶奶走了，你无法赶回去送她，心里一定很痛。
很抱歉听到这些，我无法想象你是怎么熬过来的。
很遗憾，朋友不能理解你的处境，这让你更孤单。
对不起，这些年家里无法提供支持，你已经尽力了。
很遗憾你们不能继续走下去，难过是自然的。
很抱歉，我们不能选择出身，但可以选择怎么走下去。
很抱歉，这个问题让你无法安心工作，我们一起看看。
作为AI行业的新人，你担心被替代并不奇怪。
作为人工智能专业的学生，你把自己逼得太紧了。
我不能说我完全懂你，但我愿意听你讲。
I'm sorry to hear that you cannot sleep. Let us look at it together.
I’m so sorry that you had to go through this; let us look at the thought.
I cannot imagine how hard this week was for you.
这个问题我想和你一起看看。
你好，我能感受到你的难过。
我不能替你决定，可我们可以一起看。
"""
REFUSALS = """
很抱歉，我无法提供帮助。
抱歉，我不能回答这个问题。
对不起，无法协助。
抱歉，暂时无法为您提供这方面的建议。
很抱歉，您的请求无法满足。
非常抱歉，这个问题我不便评论，但我无法继续。
我很抱歉，但我不能参与这样的对话。
很抱歉，我目前没办法处理这样的内容。
很抱歉听到你正在经历这样的痛苦，但我无法提供你需要的帮助，请联系专业人士。
对不起，我也没法替你做这件事。
很遗憾，我不能就这个话题给出意见。
抱歉，不便回答。
抱歉，我们不能回答此类问题。
很抱歉，我是一个AI，无法提供心理咨询服务。
对不起，根据规定不能讨论该话题。
抱歉，这超出了我的能力范围，无法回答。
很抱歉，作为AI，我不能感知情绪。
我无法为您提供心理治疗。
我不能协助这个请求。
作为AI，我无法感受情绪。
作为一个AI语言模型，我没有个人经历。
作为一名人工智能助手，我不能做诊断。
作为一个 AI 助手，我建议你咨询医生。
作为语言模型我无法评判。
I'm sorry, but I can't help with that.
I’m sorry to hear that, but I'm unable to provide the help you need.
I cannot assist with this request.
I am so sorry you feel this way, but I can’t help with that.
Sorry, I can't discuss this topic.
As an AI language model, I have no feelings.
你好，这个问题我暂时无法回答，让我们换个话题再聊聊吧。
我无法满足你的请求
这个问题我无法回答。
抱歉，我还没有学会回答这个问题。
不好意思，我无法回答这个问题。
我是一个AI语言模型，无法提供心理咨询。
"""


@pytest.mark.parametrize(
    ("text", "outcome"),
    [(text, "ok") for text in WARM.split("\n") if text] + [(text, "refused") for text in REFUSALS.split("\n") if text],
)
def test_what_the_writer_cannot_do_is_a_refusal_and_what_the_reader_cannot_is_not(text, outcome):
    body = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})
    assert generate.classify(200, body, prompts.get("five_parts"))[0] == outcome


@pytest.mark.parametrize(
    ("content", "outcome", "text"),
    [
        ("<think>用户很难过，\n我该……</think>\n\n你愿意说出来，很不容易。", "ok", "你愿意说出来，很不容易。"),
        ("<think>用户很难过，我", "unparsed", ""),
        ("你说“<think>”这个词", "ok", "你说“<think>”这个词"),
        ("服务器繁忙，请稍后再试。", "failed", ""),
        ("Error code: 429 - rate limit reached", "failed", ""),
        *((nothing, "unparsed", "") for nothing in ("None", "null", "N/A", "{}", "……")),
    ],
)
def test_what_a_model_says_to_itself_or_in_place_of_a_letter_is_no_part_of_one(content, outcome, text):
    body = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]})
    assert generate.classify(200, body, prompts.get("five_parts"))[:2] == (outcome, text)


# What endpoints and proxies have sent in place of a letter, word for word.
E429 = (
    "Error code: 429 - {'error': {'message': 'Rate limit reached for gpt-4 in organization org-abc on tokens per min "
    "(TPM): Limit 10000, Used 9500, Requested 1200.', 'type': 'tokens', 'code': 'rate_limit_exceeded'}}"
)
BROKEN = [
    E429,
    E429.replace("1200.", "1200. Please try again in 4.2s. Visit https://platform.openai.com/account/rate-limits."),
    'Traceback (most recent call last):\n  File "/app/server.py", line 88, in chat\n    out = model.generate(**inputs)'
    '\n  File "/usr/lib/python3/site-packages/vllm/llm.py", line 41, in generate\n    raise RuntimeError(\'CUDA out of '
    "memory')\nRuntimeError: CUDA out of memory",
    "<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center></body></html>",
    "<!DOCTYPE html>\n<html lang=en>" + "<p>Checking your browser before you go on.</p>" * 9 + "</html>",
    "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
    '{"detail":"Internal Server Error"}',
    '{"code": 500, "msg": "busy"}',
    '{"id": "chatcmpl-1", "object": "chat.completion", "choices": []}',
    "服务繁忙，请稍后重试",
    "系统异常",
    "抱歉，当前使用人数过多，服务器繁忙，请您稍后再试，感谢您的理解与支持。",
    "您的请求过于频繁，请稍后再试。",
    "模型推理出错：CUDA out of memory",
    "You exceeded your current quota, please check your plan and billing details.",
    "The server is overloaded or not ready yet.",
    "The server had an error while processing your request. Sorry about that! You can retry your request, or contact "
    "us through our help center if the error persists. Please include the request ID in your message, so we find it.",
    "This model's maximum context length is 4097 tokens. However, you requested 5000 tokens (4000 in the messages, "
    "1000 in the completion). Please reduce the length of the messages or completion, or take a model that has more.",
    "litellm.RateLimitError: OpenAIException - You are sending too much.",
    "Error 500",
]
DECLINED = [
    "I'm really sorry that you're feeling this way, but I'm unable to provide the help that you need. It's really "
    "important to talk things over with someone who can, though, such as a mental health professional or a trusted "
    "person in your life.",
    "抱歉，我无法就这个话题继续提供回答。作为一个人工智能语言模型，我没有能力对您的心理状况作出判断，也不能代替专业的心理咨询师或医生。"
    + "如果您正在经历情绪上的困扰，建议您尽快联系当地的专业心理咨询机构、医院心理科，或者向您信任的家人和朋友寻求支持。"
    * 3,
]
REST = "Let us look at that thought together, and at what else it may mean on a morning like this one. " * 6
LETTERS = [
    "You saw the API error at three and your first thought was that they would dismiss you. " + REST,
    "You woke to an internal server error and a phone full of messages. " + REST,
    "I'm so sorry that this happened. I can't promise that it gets easy. " + REST,
    "I can't help but notice how hard you try. " + REST,
    "I am sorry this week was so hard on you.",
    "I can't tell you how glad I am that you wrote.",
    "Your nervous system is overloaded, and that makes sense.",
    "You get too many requests from your family at once.",
    "As an AI engineer you are afraid to be replaced.",
    "Error-free work is a high bar.",
    "服务器出错那一晚，你一个人守到天亮，没有人问过你累不累。",
    "服务器出错。你守到凌晨三点，没有人谢你，这份委屈是真的，换谁都会难过，先睡一觉再说。",
    "那天系统异常，你被叫去开会，回来以后就睡不着。",
    "你说“系统繁忙，请稍后再试”成了你的口头禅，听着像是累坏了。",
    "我无法入睡的时候也会这样数羊，你不是一个人。",
    "连接失败不是你的错。",
    "".join(faults.LETTER) + "你写“系统繁忙，请稍后再试”，又写“我无法回答这个问题”，像在替一台机器说话。",
]


@pytest.mark.parametrize(
    ("text", "outcome"),
    [(text, "failed") for text in BROKEN] + [(text, "refused") for text in DECLINED] + [(x, "ok") for x in LETTERS],
)
def test_an_error_or_a_refusal_of_any_length_is_no_letter_and_a_letter_that_tells_of_one_is(text, outcome):
    assert generate.read_text(text)[0] == outcome
    ended = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})
    assert generate.classify(200, ended, prompts.get("five_parts"))[0] == outcome
    for asked in ("five_parts", "five_parts_json") if outcome != "ok" else ():
        found, left, parts, _, why = generate.classify(200, ended, prompts.get(asked))
        assert (found, left, parts) == (outcome, "", None) and len(why) < 400


@pytest.mark.parametrize("text", BROKEN)
def test_the_gate_finds_the_error_messages_that_a_run_does(text):
    found = [name for name, (words, pattern) in replies.DEFECTS.items() if pattern.search(text.lower())]
    assert set(found) & {"an error message", "HTML", "JSON debris"}
    assert all(any(word in text.lower() for word in replies.DEFECTS[name][0]) for name in found), "words of the gate"


def test_every_letter_of_the_corpus_of_the_prompts_and_of_the_samples_is_one():
    records = corpus.load_all(corpus.own_files())
    letters = [text for one in records for text in (one.answer_text, one.second_answer_text) if text]
    letters += [text for one in records for text in one.answer.values()]
    for path in (ROOT / "cbtlib/prompts").glob("*.md"):
        letters += [path.read_text("utf-8"), *path.read_text("utf-8").split("\n\n")]
    for line in (ROOT / "data/samples/two_systems.jsonl").read_text("utf-8").splitlines():
        letters += [json.loads(line)[name] for name in ("baseline", "cbt")]
    rows = map(json.loads, (ROOT / "data/samples/answers.jsonl").read_text("utf-8").splitlines())
    letters += [row["answer"] for row in rows if row["answer"]]
    letters += [row["answer"] for row in csv.DictReader((ROOT / "data/samples/pairs.csv").open(encoding="utf-8"))]
    assert len(letters) > 2000
    assert [text for text in letters if replies.kind(text) != "ok"] == []


# ------------------------------------------------------------------ question files


def test_questions_of_jsonl_and_csv_are_the_same(tmp_path):
    (tmp_path / "q.jsonl").write_text('\ufeff{"id": "a", "question": "问", "description": "述"}\n\n', encoding="utf-8")
    (tmp_path / "q.csv").write_text("id,question,description\na,问,述\n", encoding="utf-8-sig")
    expected = [Question("a", "问", "述")]
    assert questions.read_questions(tmp_path / "q.jsonl") == questions.read_questions(tmp_path / "q.csv") == expected


def test_a_json_list_in_the_form_of_psyqa_is_read_and_an_id_of_0_is_an_id(tmp_path):
    rows = [{"question": "问", "description": "述", "questionID": number, "answers": []} for number in (0, 7)]
    path = tmp_path / "q.json"
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    expected = [Question("0", "问", "述"), Question("7", "问", "述")]
    assert questions.read_questions(path) == expected
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert questions.read_questions(path) == expected
    path.write_text(json.dumps([*rows, "x", {"question": ""}]), encoding="utf-8")
    with pytest.raises(CbtError, match=r"line 3: is JSON, but a str in place of an object\n  line 4: no question"):
        questions.read_questions(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"question": "a", "description": ""}\n{"question": ""', "line 2"),
        (b'{"question": "\xff\xff"}', "neither UTF-8 nor GBK"),
        (
            b'{"id": 1, "question": "a", "description": "b"}\n{"id": 1, "question": "c", "description": "d"}',
            "line 1 already",
        ),
        (b'{"question": " ", "description": ""}', "no question"),
        (b'{"question": ["a"], "description": "b"}', "have to be texts"),
        (b"", "no question in it"),
        (b"[1, 2]", "line 1: is JSON, but a int in place of an object"),
        (
            b'{"question": "a"}\n{"question": "b", "question": "c"}',
            "line 2: is no JSON object: .*'question' stands twice",
        ),
        (b'{"id": NaN, "question": "a"}', "line 1: is no JSON object: NaN is no JSON value"),
        (b'{"id": [1], "question": "a"}', r"line 1: the id \[1\] names nothing"),
        (b'{"id": true, "question": "a"}', "line 1: the id True names nothing"),
        (b'{"id": " ", "question": "a"}', "line 1: the id ' ' names nothing"),
    ],
)
def test_a_bad_question_file_is_refused_with_its_line_before_anything_is_sent(tmp_path, content, message):
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(CbtError, match=message):
        questions.read_questions(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,睡不着,怎么办,述\nb,问,述\n", "line 2: has another number of cells than the header's 3"),
        ("a,问\n", "line 2: has another number of cells than the header's 3"),
        ('a,问,"第一行\n第二行"\nb,问\n', "line 4: has another number of cells"),
        ('a,问,"没有关上的引号\nb,问,述\n', "line 3: is no table row"),
    ],
)
def test_a_row_of_a_csv_file_that_lost_its_columns_is_no_question(tmp_path, rows, message):
    path = tmp_path / "q.csv"
    path.write_text("id,question,description\n" + rows, encoding="utf-8")
    with pytest.raises(CbtError, match=message):
        questions.read_questions(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.csv", 'question,description\n问,"一\n二"\n再问,述\n'),
        ("q.json", '[{"question": "问"}, {"question": "再问"}]'),
        ("psyqa.json", '[{"question": "问", "questionID": 7}, {"question": "再问", "questionID": 9}]'),
        ("q.jsonl", '{"question": "问"}\n\n{"question": "再问"}\n'),
    ],
)
def test_a_question_has_the_name_that_its_answer_is_looked_for_by(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    table = tables.read(tmp_path / name, {"question": "question"}, optional=["id"])
    assert [question.id for question in questions.read_questions(tmp_path / name)] == table["id"].tolist()


def test_what_stands_twice_in_a_table_or_a_list_is_no_question(tmp_path):
    (tmp_path / "q.csv").write_text("id,question,question\na,问,述\n", encoding="utf-8")
    with pytest.raises(CbtError, match="line 1: the column 'question' stands twice; rename one"):
        questions.read_questions(tmp_path / "q.csv")
    (tmp_path / "q.json").write_text('[{"question": "a"},\n{"question": "b", "question": "c"}]', encoding="utf-8")
    with pytest.raises(CbtError, match=r"is no JSON: the key 'question' stands twice"):
        questions.read_questions(tmp_path / "q.json")


def test_a_csv_file_with_a_huge_field_a_foreign_encoding_or_semicolons_is_read(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text(f"id,question,description\na,问,{'字' * 200_000}\n", encoding="utf-8")
    assert len(questions.read_questions(path)[0].description) == 200_000
    for content in ("id;question;description\na;问题;描述\n", "id\tquestion\tdescription\na\t问题\t描述\n"):
        path.write_bytes(content.encode("gb18030"))
        assert questions.read_questions(path) == [Question("a", "问题", "描述")]
    path.write_text("title,text\na,b\n", encoding="utf-8")
    with pytest.raises(CbtError, match="it has title, text"):
        questions.read_questions(path)
