"""`cbt answer`: a tuned adapter answers a reader's questions, each once, and what is no answer is said to be none."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from cbtlib import CbtError, answering, corpus, models, pairing, runs, sampling, templates, training
from cbtlib.answering import Settings
from cbtlib.cli import app

SHORT = Settings(max_new_tokens=6, seed=3)
IN_DANGER = corpus.load(corpus.ROOT / "data/corpus/crisis.jsonl")[0]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    rows, dev = corpus.load_split("train")[:4], corpus.load_split("dev")[:1]
    config = replace(training.PROFILES["smoke"], max_steps=1)
    return training.train(rows, dev, config, tmp_path_factory.mktemp("run")).adapter


@pytest.fixture
def questions(tmp_path):
    rows = [{"id": f"q{i}", "question": "睡不好", "description": f"第{i}天了，总想着工作。"} for i in range(7)]
    rows.insert(2, {"id": "danger", "question": IN_DANGER.question, "description": IN_DANGER.description})
    rows.insert(4, {"id": "mark", "question": "怎么办<eos>", "description": "写到一半"})
    rows.insert(5, {"id": "long", "question": "很长", "description": "累。" * 20000})
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def said(monkeypatch):
    """Which prompts the model is asked, and scripted texts for some: {a piece of the prompt: Sample}."""
    asked, script, real = [], {}, sampling.sample

    def sample(model, tokenizer, prompts, **how):
        asked.extend(prompts)
        drawn = real(model, tokenizer, prompts, **how)
        return [
            next((text for mark, text in script.items() if mark in prompt), one)
            for prompt, one in zip(prompts, drawn, strict=True)
        ]

    monkeypatch.setattr(sampling, "sample", sample)
    return asked, script


def read(out):
    return [json.loads(line) for line in (out / "answers.jsonl").read_text("utf-8").splitlines()]


def test_every_question_has_one_line_and_only_an_answer_has_a_text(adapter, questions, tmp_path, said):
    asked, script = said
    ok, cut = sampling.Sample("你愿意说出来，很不容易。", False), sampling.Sample("你愿意", True)
    script |= {"第0天": ok, "第1天": cut, "第2天": sampling.Sample("", False)}
    script["第3天"] = sampling.Sample("抱歉，我无法回答这个问题。", False)
    script["第4天"] = sampling.Sample("Error code: 429 - {'error': {'message': 'Rate limit'}} " * 5, False)
    counts = answering.answer(adapter, questions, tmp_path / "out", SHORT)
    lines = {line["id"]: line for line in read(tmp_path / "out")}
    assert list(lines) == [json.loads(line)["id"] for line in questions.read_text("utf-8").splitlines()]
    expected = {"q0": "ok", "q1": "truncated", "q2": "unparsed", "q3": "refused", "danger": "crisis", "mark": "failed"}
    expected["q4"] = "failed"
    assert {name: lines[name]["outcome"] for name in expected} == expected and lines["long"]["outcome"] == "failed"
    assert "<eos>" in lines["mark"]["detail"] and "tokens" in lines["long"]["detail"]
    assert lines["q0"]["text"] == ok.text and not any(
        line["text"] for line in lines.values() if line["outcome"] != "ok"
    )
    assert all(line["detail"] for line in lines.values() if line["outcome"] != "ok")
    assert not [prompt for prompt in asked if IN_DANGER.question in prompt], "a crisis is shown to no model"
    assert sum(counts.values()) == len(lines) == 10 and counts["failed"] == 3
    assert pairing.read(tmp_path / "out/answers.jsonl").texts["q3"] == ("refused", ""), "cbt score reads it"


def test_the_model_reads_the_template_it_was_trained_behind(adapter, questions, tmp_path, said):
    answering.answer(adapter, questions, tmp_path / "out", SHORT)
    template = templates.adopt(training.PROFILES["smoke"].template, models.tokenizer("smoke"))
    assert said[0][0] == templates.render("睡不好\n第0天了，总想着工作。", template)


def test_a_killed_run_goes_on_and_gives_what_an_unbroken_one_gives(adapter, questions, tmp_path, said, monkeypatch):
    monkeypatch.setattr(answering, "BLOCK", 3)
    answering.answer(adapter, questions, tmp_path / "whole", SHORT)
    asked, real, calls = said[0], sampling.sample, []

    def dies(*given, **how):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given, **how)

    monkeypatch.setattr(sampling, "sample", dies)
    with pytest.raises(KeyboardInterrupt):
        answering.answer(adapter, questions, tmp_path / "out", SHORT)
    assert not (tmp_path / "out/answers.jsonl").exists(), "half of the answers are not the answers"
    asked.clear()
    answering.answer(adapter, questions, tmp_path / "out", SHORT)
    assert read(tmp_path / "out") == read(tmp_path / "whole") and len(asked) < 5
    asked.clear()
    answering.answer(adapter, questions, tmp_path / "out", SHORT)
    assert not asked, "a finished run asks nobody"


@pytest.mark.parametrize("change", ["seed", "questions", "adapter"])
def test_other_answers_are_never_put_into_a_run_s_folder(adapter, questions, tmp_path, change):
    answering.answer(adapter, questions, tmp_path / "out", SHORT)
    before = (tmp_path / "out/answers.jsonl").read_bytes()
    settings = replace(SHORT, seed=4) if change == "seed" else SHORT
    if change == "questions":
        questions.write_text(questions.read_text("utf-8").replace("工作", "考试"), "utf-8")
    if change == "adapter":
        other = tmp_path / "adapter"
        other.mkdir()
        for path in adapter.iterdir():
            (other / path.name).write_bytes(path.read_bytes())
        weights = other / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\7")
        adapter = other
    with pytest.raises(CbtError, match=rf"another run \({change} changed\): take another folder"):
        answering.answer(adapter, questions, tmp_path / "out", settings)
    assert (tmp_path / "out/answers.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["answers.jsonl", "unfinished.jsonl"])
def test_answers_that_nobody_has_signed_are_not_taken_for_the_adapter_s(adapter, questions, tmp_path, name):
    answering.answer(adapter, questions, tmp_path / "other", SHORT)
    (tmp_path / "out").mkdir()
    (tmp_path / "other/answers.jsonl").rename(tmp_path / "out" / name)
    with pytest.raises(CbtError, match=r"holds answers without the run\.json that says whose"):
        answering.answer(adapter, questions, tmp_path / "out", SHORT)
    assert not (tmp_path / "out/run.json").exists()


def test_answers_never_take_the_place_of_their_questions(adapter, tmp_path):
    for name in ("answers.jsonl", "unfinished.jsonl", "run.json"):
        asked = tmp_path / name
        asked.write_text('{"question": "睡不着"}\n', "utf-8")
        with pytest.raises(CbtError, match="is what is read: name another file to write"):
            answering.answer(adapter, asked, tmp_path, SHORT)
        assert asked.read_text("utf-8") == '{"question": "睡不着"}\n'
        asked.unlink()


def test_a_damaged_file_of_answers_names_the_cure_that_helps(adapter, questions, tmp_path):
    answering.answer(adapter, questions, tmp_path / "out", SHORT)
    done = tmp_path / "out/answers.jsonl"
    whole = done.read_bytes()
    done.write_bytes(whole[:-20] + b"\n")
    with pytest.raises(CbtError, match="remove it, and the same `cbt answer` answers its questions anew"):
        answering.answer(adapter, questions, tmp_path / "out", SHORT)
    done.unlink()
    answering.answer(adapter, questions, tmp_path / "out", SHORT)
    assert done.read_bytes() == whole


def test_memory_that_runs_out_is_one_sentence_and_another_batch_size_goes_on(adapter, questions, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "sample", full)
        with pytest.raises(CbtError, match="48 answers at a time: give a smaller --batch-size"):
            answering.answer(adapter, questions, tmp_path / "out", SHORT)
    assert sum(answering.answer(adapter, questions, tmp_path / "out", SHORT, batch_size=2).values()) == 10


def test_the_command_prints_all_outcomes_and_says_what_is_missing(adapter, questions, tmp_path):
    command = ["answer", "--questions", str(questions), "--out", str(tmp_path / "out"), "--triage", "rules"]
    done = CliRunner().invoke(app, [*command, "--adapter", str(adapter), "--max-new-tokens", "4"])
    assert done.exception is None and "crisis 1" in done.output and "answers.jsonl" in done.output
    done = CliRunner().invoke(app, [*command, "--adapter", str(tmp_path)])
    assert isinstance(done.exception, CbtError) and "holds no adapter of `cbt train`" in str(done.exception)


@pytest.mark.filterwarnings("ignore:.*meta parameter")
def test_on_a_gpu_no_layer_gets_the_forward_that_is_for_a_processor(adapter, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert models.device() == "cuda"
    monkeypatch.undo()
    assert models.device() == "cpu"
    tuned, _ = runs.load_adapter(adapter, device="meta")
    assert next(tuned.parameters()).device.type == "meta"
    norms = [module for module in tuned.modules() if type(module).__name__ == "Gemma3RMSNorm"]
    assert norms and not any("forward" in vars(module) for module in norms)
