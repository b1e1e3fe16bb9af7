"""A run goes on, whatever failed before: no number of rejected questions keeps the others from their answers."""

import json

import pytest

from cbtlib import CbtError, faults, generate, prompts
from cbtlib.generate import Question
from cbtlib.journal import Journal, Reply
from cbtlib.sending import HOPELESS, Traffic

PROMPT = prompts.get("five_parts_json")
TRAFFIC = Traffic(concurrency=4, attempts=2, deadline=5.0)
MOST = HOPELESS + 2 * TRAFFIC.concurrency
"""Questions that are asked at most before a run that is of no use stops: those in flight are awaited."""


def posts(n: int) -> list[Question]:
    return [Question(f"q{i}", f"第{i}个问题", "这个月一直加班，总觉得自己什么都做不好。") for i in range(n)]


def keys(asked: list[Question]) -> set[str]:
    job = generate.Job(PROMPT, "rehearsal", generate.Sampling())
    return {job.request(question).key.hex() for question in asked}


def run(asked: list[Question], server: faults.Server, out) -> dict[str, int]:
    """The outcomes that the manifest counts: one for each question."""
    answers = generate.run(asked, PROMPT, server, out, traffic=TRAFFIC)
    counts = {name: n for name, n in json.loads((out / "manifest.json").read_text("utf-8"))["outcomes"].items() if n}
    assert [answer.id for answer in answers] == [question.id for question in asked]
    assert sum(counts.values()) == len(asked)
    return counts


def stops(asked: list[Question], server: faults.Server, out) -> None:
    before = set(server.attempts)
    attempts = server.requests
    with pytest.raises(CbtError, match=r"has answered none of 8 requests|has sent no chat completion so far"):
        run(asked, server, out)
    assert len(set(server.attempts) - before) <= MOST and server.requests - attempts <= TRAFFIC.attempts * MOST


@pytest.mark.parametrize("fault", ["no_schema_support", "garbled", "server_error"])
def test_questions_that_always_fail_keep_no_run_from_its_end(fault, tmp_path):
    first, more = posts(50), posts(60)
    bad = keys(first[1:50:3][:17])
    assert len(bad) == 17 > MOST
    with faults.serve(lambda key, _: fault if key in bad else "ok") as server:
        assert run(first, server, tmp_path) == {"ok": 33, "failed": 17}
        assert run(more, server, tmp_path) == {"ok": 43, "failed": 17}
        assert run(more, server, tmp_path) == {"ok": 43, "failed": 17}, "nothing is left but what failed before"
        assert run(first, server, tmp_path) == {"ok": 33, "failed": 17}
        good = {key: n for key, n in server.attempts.items() if key not in bad}
    assert len(good) == 43 and set(good.values()) == {1}, "nothing is answered twice"


@pytest.mark.parametrize("fault", ["no_schema_support", "garbled", "server_error"])
def test_an_endpoint_that_is_broken_now_still_stops_a_run_that_had_answers(fault, tmp_path):
    asked = posts(120)
    bad = keys(asked[1:60:3])
    with faults.serve(lambda key, _: fault if key in bad else "ok") as server:
        assert run(asked[:60], server, tmp_path) == {"ok": 40, "failed": 20}
        server.plan = lambda key, _: fault
        stops(asked, server, tmp_path)
        server.plan = lambda key, _: "ok"
        assert run(asked, server, tmp_path) == {"ok": 120}


@pytest.mark.parametrize("fault", ["no_schema_support", "garbled"])
def test_where_nothing_was_ever_answered_what_failed_before_stops_a_run_too(fault, tmp_path):
    asked = posts(20)
    with faults.serve(fault) as server:
        for _ in range(3):  # at the latest in the third run, all of them have failed before
            stops(asked, server, tmp_path)


def test_rejected_questions_at_the_head_of_a_file_do_not_hide_the_others(tmp_path):
    asked = posts(60)
    bad = keys(asked[:HOPELESS])
    with faults.serve(lambda key, _: "no_schema_support" if key in bad else "ok") as server:
        stops(asked[:HOPELESS], server, tmp_path)
        assert run(asked, server, tmp_path) == {"ok": 60 - HOPELESS, "failed": HOPELESS}


def test_what_a_batch_never_brought_has_not_failed(tmp_path):
    turned_away = Reply(400, "no", None, None, False, "failed", "HTTP 400: no")
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.open_batch("one", [(b"a", 1, 1), (b"b", 1, 1)])
        journal.close_batch("one", "expired", [(b"a", turned_away)])
        assert journal.failed() == {b"a"} and not journal.answered()
