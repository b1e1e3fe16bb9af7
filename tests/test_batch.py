"""The Batch API: replies in any order, batches that expire, kills in between; no answer lost and none paid twice."""

import json

import batch_server
import pytest

from cbtlib import CbtError, batch, faults, generate, prices, prompts
from cbtlib.generate import Job, Question, Sampling
from cbtlib.journal import Journal

PROMPT = prompts.get("five_parts_json")
JOB = Job(PROMPT, "rehearsal", Sampling(max_tokens=400))


def posts(n: int) -> list[Question]:
    return [Question(f"q{i}", f"第{i}个问题", "这个月一直加班，总觉得自己什么都做不好。") for i in range(n)]


@pytest.fixture
def server():
    with batch_server.serve() as running:
        yield running


@pytest.fixture
def price_file(tmp_path):
    path = tmp_path / "prices.csv"
    row = "rehearsal,us,0.50,,2.00,0.5,2026-01-01,a test,\n"
    path.write_text(",".join(prices.COLUMNS) + "\n" + row, encoding="utf-8")
    return path


def answers(folder) -> list:
    return list(generate.read_answers(folder / "answers.jsonl"))


def test_answers_that_come_out_of_order_are_written_in_the_order_of_the_questions(server, tmp_path, price_file):
    (started,) = batch.submit(posts(30), JOB, server, tmp_path / "a", price_file=price_file)
    assert started.requests == 30 and server.batches[started.id]["metadata"] == {"cbt": started.name}
    waiting = batch.collect(posts(30), JOB, server, tmp_path / "a", price_file=price_file)
    assert "30 requests wait" in waiting.stopped and waiting.outcomes["ok"] == 0
    server.work()
    done = batch.collect(posts(30), JOB, server, tmp_path / "a", price_file=price_file)
    assert [answer.id for answer in answers(tmp_path / "a")] == [f"q{i}" for i in range(30)]
    assert done.outcomes["ok"] == 30 and not done.stopped
    billed = prices.load(price_file)["rehearsal"].pico(server.prompt_tokens, server.completion_tokens) / 10**6
    assert done.spend.lower_micro <= billed / 2 <= done.spend.upper_micro <= done.spend.lower_micro + 1
    # What a batch brought is worth as much as what was asked directly: the plain command has nothing left to send.
    assert not batch.submit(posts(30), JOB, server, tmp_path / "a")
    with faults.serve() as direct:
        generate.generate(posts(30), PROMPT, direct, tmp_path / "a", sampling=JOB.sampling)
    assert direct.requests == 0 and len(server.batches) == 1


def test_error_lines_and_silence_become_outcomes_and_are_asked_again(server, tmp_path):
    kinds = ["ok", "rate_limit", "server_error", "expired", "silent", "length", "refusal", "not_schema", "filtered_400"]
    batch.submit(posts(90), JOB, server, tmp_path)
    server.work(lambda key: kinds[int(key[:6], 16) % len(kinds)], state="expired")
    first = batch.collect(posts(90), JOB, server, tmp_path)
    finished = {"ok", "truncated", "refused", "unparsed", "filtered"}
    assert all(first.outcomes[name] for name in (*finished, "failed")) and "without a reply" in first.stopped
    assert all(answer.detail for answer in answers(tmp_path) if answer.outcome != "ok")
    (second,) = batch.submit(posts(90), JOB, server, tmp_path)
    assert second.requests == first.outcomes["failed"]
    server.work()
    last = batch.collect(posts(90), JOB, server, tmp_path)
    assert last.outcomes["failed"] == 0 and set(server.answered.values()) == {1}


def test_a_batch_whose_id_never_arrived_is_found_again_and_not_started_twice(server, tmp_path):
    server.break_after_create = True
    with pytest.raises(CbtError, match="the same command goes on"):
        batch.submit(posts(5), JOB, server, tmp_path)
    server.break_after_create = False
    (found,) = batch.submit(posts(5), JOB, server, tmp_path)
    assert found.id == "batch_0" and len(server.batches) == 1
    server.work()
    assert batch.collect(posts(5), JOB, server, tmp_path).outcomes["ok"] == 5


def test_a_kill_before_the_endpoint_heard_of_a_batch_loses_and_bills_nothing(server, tmp_path):
    with Journal(tmp_path / "journal.sqlite") as journal:
        JOB.claim(journal, server)
        journal.open_batch("killed", ((JOB.key(post), 1000, 400) for post in posts(5)))
    assert [found.name for found in batch.submit(posts(5), JOB, server, tmp_path)] != ["killed"]
    server.work()
    summary = batch.collect(posts(5), JOB, server, tmp_path)
    assert summary.outcomes["ok"] == 5 and summary.spend.unseen == 0


def test_what_waits_in_a_batch_is_not_sent_by_the_plain_command(server, tmp_path):
    batch.submit(posts(5), JOB, server, tmp_path)
    with faults.serve() as direct:
        found = generate.run(posts(7), PROMPT, direct, tmp_path, sampling=JOB.sampling)
    assert direct.requests == 2
    assert {answer.detail for answer in found[:5]} == {"waits in a batch"}


def test_a_batch_that_is_turned_away_waits_for_nothing(server, tmp_path):
    server.refuse = 404
    with pytest.raises(CbtError, match="HTTP 404") as raised:
        batch.submit(posts(5), JOB, server, tmp_path)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert server.api_key not in str(raised.value) and server.api_key.encode() not in written
    with faults.serve() as direct:
        generate.generate(posts(5), PROMPT, direct, tmp_path, sampling=JOB.sampling)
    assert direct.requests == 5


def test_a_good_status_without_an_id_is_no_batch(server, tmp_path):
    """Some gateways say with 200 that they know no such address."""
    server.refuse = 200
    with pytest.raises(CbtError, match="made no file: its answer has no id; has it a Batch API"):
        batch.submit(posts(5), JOB, server, tmp_path)


def test_a_page_in_place_of_an_answer_is_said_and_the_same_command_goes_on(server, tmp_path):
    server.page = "<html>gateway</html>"
    with pytest.raises(CbtError, match="made no file: its answer has no id"):
        batch.submit(posts(5), JOB, server, tmp_path)
    server.page = ""
    (started,) = batch.submit(posts(5), JOB, server, tmp_path)
    server.page = "<html>gateway</html>"
    for work in (lambda: batch.status(server, tmp_path), lambda: batch.collect(posts(5), JOB, server, tmp_path)):
        with pytest.raises(CbtError, match=r"none of a Batch API.*Nothing is lost"):
            work()
    server.page = ""
    server.work()
    assert batch.collect(posts(5), JOB, server, tmp_path).outcomes["ok"] == started.requests == 5


def test_what_an_endpoint_keeps_no_longer_is_asked_again_and_taken_for_paid(server, tmp_path, price_file):
    """Files of batches expire; what was in them may have cost as much as it could."""
    batch.submit(posts(5), JOB, server, tmp_path, price_file=price_file)
    server.work()
    server.files.clear()
    gone = batch.collect(posts(5), JOB, server, tmp_path, price_file=price_file)
    assert gone.outcomes["failed"] == 5 and "5 requests came back without a reply" in gone.stopped
    assert gone.spend.upper_micro > 0 and [row[1] for row in batch.status(server, tmp_path)] == ["gone"]
    (again,) = batch.submit(posts(5), JOB, server, tmp_path, price_file=price_file)
    server.work()
    assert batch.collect(posts(5), JOB, server, tmp_path, price_file=price_file).outcomes["ok"] == again.requests == 5


def test_a_batch_stays_below_a_budget_and_a_larger_one_goes_on(server, tmp_path, price_file):
    small = batch.submit(posts(100), JOB, server, tmp_path, budget=0.02, price_file=price_file)
    assert 0 < small[0].requests < 100
    server.work()
    spent = batch.collect(posts(100), JOB, server, tmp_path, price_file=price_file)
    assert spent.spend.upper_micro <= 20_000
    batch.submit(posts(100), JOB, server, tmp_path, budget=1.0, price_file=price_file)
    server.work()
    assert batch.collect(posts(100), JOB, server, tmp_path, price_file=price_file).outcomes["ok"] == 100


def test_a_batch_holds_no_more_than_the_endpoint_takes(server, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "MOST_REQUESTS", 4)
    assert [found.requests for found in batch.submit(posts(10), JOB, server, tmp_path)] == [4, 4, 2]
    server.work()
    states = batch.status(server, tmp_path)
    assert [(state, done) for _, state, done, _ in states] == [("completed", 4), ("completed", 4), ("completed", 2)]
    batch.collect(posts(10), JOB, server, tmp_path)
    assert [row[1:] for row in batch.status(server, tmp_path)] == [row[1:] for row in states]


def test_an_answer_with_any_sign_that_can_end_a_line_or_half_a_character_is_kept(server, tmp_path):
    batch.submit(posts(1), Job(prompts.get("five_parts"), "rehearsal", JOB.sampling), server, tmp_path)
    server.work()
    file = server.batches["batch_0"]["output_file_id"]
    row = json.loads(server.files[file])
    row["response"]["body"]["choices"][0]["message"]["content"] = "好\u2028，\x85再\x0b见\ud83d。"
    raw = json.dumps(row, ensure_ascii=False).replace("\ud83d", "\\ud83d") + "\n"
    server.files[file] = raw.encode()
    job = Job(prompts.get("five_parts"), "rehearsal", JOB.sampling)
    assert batch.collect(posts(1), job, server, tmp_path).outcomes["ok"] == 1
    assert answers(tmp_path)[0].text == "好\u2028，\x85再\x0b见\ufffd。"


def test_lines_that_are_no_replies_are_left_out(server, tmp_path):
    batch.submit(posts(3), JOB, server, tmp_path)
    server.work()
    file = server.batches["batch_0"]["output_file_id"]
    good = server.files[file].splitlines()
    stranger = json.dumps({"custom_id": "00" * 32, "response": {"status_code": 200, "body": {}}, "error": None})
    server.files[file] = b"\n".join([good[0], b"{half", b"[]", b'{"custom_id": "zz"}', stranger.encode(), good[1]])
    found = batch.collect(posts(3), JOB, server, tmp_path)
    assert found.outcomes["ok"] == 2 and found.outcomes["failed"] == 1


def test_merged_shards_know_which_answers_a_batch_brought(server, tmp_path, price_file):
    parts = [tmp_path / "one", tmp_path / "two"]
    for i, part in enumerate(parts, 1):
        job = Job(PROMPT, "rehearsal", JOB.sampling, (i, 2))
        batch.submit(posts(20), job, server, part, price_file=price_file)
        server.work()
        batch.collect(posts(20), job, server, part, price_file=price_file)
    assert generate.merge(parts, tmp_path / "all") == 20 and generate.merge(parts, tmp_path / "all") == 0
    price = prices.load(price_file)["rehearsal"]
    with Journal(tmp_path / "all" / "journal.sqlite") as journal:
        spend = journal.spend(price)
    assert spend.upper_micro == price.micro(server.prompt_tokens, server.completion_tokens, batch=True)
