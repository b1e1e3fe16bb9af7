"""`cbt generate` as a person types it: every option does what it says, every mistake is one sentence."""

import contextlib
import csv
import json
from types import SimpleNamespace

import batch_server
import datasets
import jupytext
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError
from typer.testing import CliRunner

from cbtlib import ROOT, CbtError, commands, corpus, endpoint, faults, generate, judge, prices, run
from cbtlib.cli import app

SECRET = "sk-proj-0123456789abcdefghij"


def posts(n: int) -> str:
    texts = ("这个月一直加班，总觉得自己什么都做不好。" + "又开了一天会。" * (i % 7) for i in range(n))
    rows = ({"id": f"q{i}", "question": f"第{i}个问题", "description": text} for i, text in enumerate(texts))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def cbt(tmp_path, monkeypatch):
    """`cbt generate` with a question file, a price file and without the classifier; returns (output, error)."""
    questions, price_file = tmp_path / "q.jsonl", tmp_path / "prices.csv"
    questions.write_text(posts(30), encoding="utf-8")
    row = "rehearsal,us,0.50,,2.00,0.5,2026-01-01,a test,\n"
    price_file.write_text(",".join(prices.COLUMNS) + "\n" + row, encoding="utf-8")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    def call(*words: str, server=None, out: str = "out", model: str | None = "rehearsal"):
        command = ["generate", "--questions", str(questions), "--out", str(tmp_path / out), "--triage", "rules"]
        command += ["--prices", str(price_file), *(["--model", model] if model else [])]
        command += ["--base-url", server.base_url] if server else []
        done = CliRunner().invoke(app, [*command, *words])
        assert done.exception is None or isinstance(done.exception, (CbtError, SystemExit)), done.exception
        return done.output, str(done.exception or "")

    return call


def test_a_run_prints_all_outcomes_and_leaves_a_data_set_that_datasets_loads(cbt, tmp_path):
    with faults.serve(lambda key, attempt: "ok" if int(key[0], 16) % 4 else "length") as server:
        output, error = cbt(server=server)
    counts = json.loads((tmp_path / "out/manifest.json").read_text("utf-8"))["outcomes"]
    assert not error and all(f"{name} {count}" in output for name, count in counts.items())
    assert counts["truncated"] > 0 and "spent $" in output
    found = datasets.load_dataset(str(tmp_path / "out/dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    ok = [answer for answer in generate.read_answers(tmp_path / "out/answers.jsonl") if answer.outcome == "ok"]
    assert found["id"] == [answer.id for answer in ok] and found["answer"] == [answer.text for answer in ok]
    assert found[0]["challenge"] == faults.LETTER[2] and found[0]["question"].startswith("第")
    card = (tmp_path / "out/dataset/README.md").read_text("utf-8")
    assert f"| truncated | {counts['truncated']} |" in card and "2026-01-01" in card


def test_gates_keep_english_and_other_defects_out_of_the_accepted_set(cbt, tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "LETTER", tuple(corpus.load_split("test")[0].answer.values()))
    names = ("english", "no_usage", "length")
    with faults.serve(lambda key, attempt: names[int(key[:6], 16) % 3]) as server:
        cbt(server=server)
    found = [a for a in generate.read_answers(tmp_path / "out/answers.jsonl") if a.outcome == "ok"]
    english = {answer.id for answer in found if "Thank you" in answer.text}
    assert 0 < len(english) < len(found) < 30
    command = ["generate", "gates", "--questions", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exception is None and "too few Chinese characters" in done.output
    gates = {row["id"]: row for row in csv.DictReader((tmp_path / "out/gates.csv").open(encoding="utf-8"))}
    assert {id for id, row in gates.items() if row["language"] == "1"} == english and len(gates) == len(found)
    passed = [answer.id for answer in found if not int("".join(list(gates[answer.id].values())[1:]))]
    accepted = datasets.load_dataset(str(tmp_path / "out/accepted"), split="train", cache_dir=str(tmp_path / "cache"))
    assert accepted["id"] == passed and len(passed) > 0 and not english & set(passed)
    assert f"{len(found) - len(passed)} are left out" in (tmp_path / "out/accepted/README.md").read_text("utf-8")
    (tmp_path / "q.jsonl").write_text(posts(1), encoding="utf-8")
    assert "not among the questions" in str(CliRunner().invoke(app, command).exception)
    assert "holds no finished run" in str(CliRunner().invoke(app, [*command[:-1], str(tmp_path)]).exception)


def test_a_shard_exports_its_own_answers_and_the_merged_run_all(cbt, tmp_path):
    with faults.serve() as server:
        for i in (1, 2):
            cbt("--shard", f"{i}/2", server=server, out=f"part{i}")
        done = CliRunner().invoke(
            app, ["generate", "merge", "--out", str(tmp_path / "out"), *(str(tmp_path / f"part{i}") for i in (1, 2))]
        )
        assert "30 attempts" in done.output
        output, _ = cbt(server=server)
    assert server.requests == 30 and "ok 30" in output


def test_a_dry_run_forecasts_an_interval_that_holds_the_bill_and_its_answers_count(cbt):
    with faults.serve() as server:
        output, _ = cbt("--dry-run", "--sample", "12", server=server)
        assert server.requests == 12 and "prices of 2026-01-01" in output
        expected, low, high = (
            float(word.strip("$")) for word in output.split("cost")[1].split("(")[0].split() if word.startswith("$")
        )
        output, _ = cbt(server=server)
    price = prices.Price("m", "", 500_000, 2_000_000, None, "", "", "")
    bill = price.micro(server.prompt_tokens, server.completion_tokens) / 10**6
    assert low <= bill <= high and low < expected < high and server.requests == 30


def test_a_dry_run_leaves_the_products_of_a_run_alone(cbt, tmp_path):
    with faults.serve() as server:
        cbt("--dry-run", server=server)
        assert not (tmp_path / "out/answers.jsonl").exists() and not (tmp_path / "out/dataset").exists()
        cbt(server=server)
        before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
        output, error = cbt("--dry-run", "--sample", "12", "--temperature", "0.1", server=server)
    assert not error and "ok 12" in output and server.requests == 42 and "answers.jsonl" not in output
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert len(before) > 4 and not {name for name in changed if not name.startswith("journal.sqlite")}


def test_a_budget_ends_a_run_with_a_sentence_and_a_larger_one_ends_it_well(cbt):
    with faults.serve() as server:
        _, error = cbt("--budget", "0.02", "--max-tokens", "300", server=server)
        assert "the budget is used up" in error and "the same command goes on" in error
        output, error = cbt("--budget", "1", "--max-tokens", "300", server=server)
    assert not error and "ok 30" in output and set(server.answered.values()) == {1}


def test_a_replay_asks_nobody_and_needs_no_address_key_or_model(cbt, tmp_path, monkeypatch):
    with faults.serve() as server:
        cbt(server=server)
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    journal = str(tmp_path / "out/journal.sqlite")
    output, error = cbt("--replay", journal, out="again", model=None)
    assert not error and "ok 30" in output
    first, second = ((tmp_path / name / "answers.jsonl").read_bytes() for name in ("out", "again"))
    assert first == second
    made = [json.loads((tmp_path / name / "manifest.json").read_text("utf-8")) for name in ("out", "again")]
    assert made[0]["endpoint"] == made[1]["endpoint"]
    _, error = cbt("--replay", journal, "--temperature", "0.1", out="other", model=None)
    assert "no reply to 30 of the requests" in error and "temperature" in error


def test_the_batch_api_from_the_command_line(cbt):
    with batch_server.serve() as server:
        output, _ = cbt("--batch", "submit", server=server)
        assert "batch_0  30 requests" in output
        _, error = cbt("--batch", "collect", server=server)
        assert "30 requests wait" in error
        server.work()
        output, _ = cbt("--batch", "status", server=server)
        assert "completed: 30 of 30 done" in output
        output, error = cbt("--batch", "collect", server=server)
    assert not error and "ok 30" in output


def test_a_profile_gives_model_prompt_and_limit_and_options_win(monkeypatch):
    options = dict.fromkeys(["model", "prompt", "max_tokens"]) | {"profile": "paper"}
    found = commands._defaults(options)
    chosen = run.profile_parameters("paper", "02_generation")
    assert found == {name: chosen[name] for name in ("model", "prompt", "max_tokens")}
    assert commands._defaults(options | {"profile": "embedded"})["model"] == "embedded"
    assert "model" not in commands._defaults(options | {"model": "mine"})
    with pytest.raises(CbtError, match="no profile"):
        commands._defaults(options | {"profile": "papr"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--concurrency", "0"], "concurrency"),
        (["--deadline", "-1"], "deadline"),
        (["--deadline", "nan"], "deadline"),
        (["--rpm", "nan"], "--rpm nan"),
        (["--rpm", "inf"], "--rpm inf"),
        (["--temperature", "nan"], "--temperature nan"),
        (["--budget", "-1"], "no budget"),
        (["--budget", "nan"], "no budget"),
        (["--shard", "3/2"], "i/n"),
        (["--shard", "²/³"], "i/n"),
        (["--body", "{"], "not JSON"),
        (["--body", '{"temperature": NaN}'], "not JSON (NaN"),
        (["--body", "[" * 20_000], "not JSON"),
        (["--body", "[]"], "JSON object"),
        (["--batch", "send"], "submit, status, collect"),
        (["--batch", "submit", "--dry-run"], "neither"),
        (["--prompt", "six_parts"], "no prompt"),
        (["--replay", "nowhere.sqlite"], "no journal"),
        (["--triage", "none"], "full"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_sent(cbt, words, message):
    with faults.serve() as server:
        _, error = cbt(*words, server=server)
    assert message in error and "\n" not in error and server.requests == 0


def test_a_missing_key_and_a_wrong_url_are_named(cbt, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with faults.serve() as server:
        assert "OPENAI_API_KEY is not" in cbt(server=server)[1]
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", "127.0.0.1:9/v1")
    assert "http://" in cbt()[1]
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert "cannot be reached" in cbt()[1]


def test_no_secret_enters_a_notebook_or_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    source = f"""# %%
from cbtlib import endpoint, generate, prompts
with endpoint.connect("rehearsal") as where:
    print(where)
    post = [generate.Question("a", "问题", "描述")]
    generate.run(post, prompts.get("five_parts_json"), where, {str(tmp_path / "out")!r})
"""
    notebook = run._with_kernel(jupytext.reads(source, fmt="py:percent"))
    with faults.serve("unauthorised") as server, pytest.raises(PapermillExecutionError):
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        papermill.execute_notebook(
            notebook, str(tmp_path / "done.ipynb"), kernel_name="python3", cwd=str(ROOT), progress_bar=False
        )
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 2 and b"Incorrect API key" in b"".join(written)
    assert SECRET.encode() not in b"".join(written)


INTO_A_FOLDER = {
    "corpus export": ["corpus", "export", "--out"],
    "statistics": ["distortions", "statistics", "data/corpus/dev.jsonl", "--out"],
    "student": ["student", "--out"],
    "slides": ["slides", "--profile", "smoke", "--results", "{made}", "--out"],
    "train": ["train", "--profile", "smoke", "--out"],
    "train --export": ["train", "--profile", "smoke", "--export", "axolotl", "--out"],
    "judge": ["ratings", "judge", "a={made}/a.jsonl", "b={made}/a.jsonl", "--contestant", "a=m", "--contestant", "b=n",
              "--posts", "data/corpus/test.jsonl", "--model", "gpt-9", "--out"],
    "run": ["run", "notebooks/data.py", "--profile", "smoke", "--results"],
}  # fmt: skip


@pytest.mark.parametrize("command", INTO_A_FOLDER.values(), ids=INTO_A_FOLDER)
@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_place_of_a_folder_is_one_sentence(tmp_path, monkeypatch, command, place):
    monkeypatch.chdir(ROOT)
    (tmp_path / "file").write_text("")
    (tmp_path / "a.jsonl").write_text('{"id": "cbt-0007", "outcome": "ok", "text": "好"}\n', encoding="utf-8")
    deck = tmp_path / "smoke/01_prompt_design"
    deck.mkdir(parents=True)
    (deck / "01_prompt_design.ipynb").write_text("{}")
    monkeypatch.setattr(endpoint, "connect", lambda _: contextlib.nullcontext(SimpleNamespace(model="gpt-9")))
    monkeypatch.setattr(judge, "endpoint_ask", lambda *_: lambda *_: pytest.fail("the folder comes first"))
    words = [word.format(made=tmp_path) for word in command]
    done = CliRunner().invoke(app, [*words, str(tmp_path / place)])
    assert isinstance(done.exception, CbtError), done.exception
    assert str(done.exception).startswith(f"cannot make the folder {tmp_path / 'file'}")


@pytest.mark.parametrize("product", ["answers.jsonl", "manifest.json"])
def test_a_run_never_writes_over_its_questions(tmp_path, product):
    questions = tmp_path / product
    questions.write_text(posts(2), encoding="utf-8")
    command = ["generate", "--questions", str(questions), "--out", str(tmp_path), "--triage", "rules", "--model", "m"]
    error = CliRunner().invoke(app, command).exception
    assert isinstance(error, CbtError) and "is what is read: name another file to write" in str(error)
    assert questions.read_text("utf-8") == posts(2)
