"""Exports read by the tools they are for: datasets, TRL, the openai client; LLaMA-Factory's rules are spelt out."""

import errno
import json
import os
from dataclasses import replace

import httpx
import openai
import pytest

from cbtlib import CbtError, corpus, exports

LABEL = (corpus.Label("labelling", 0, 4, "why"),)
GOOD = corpus.Record(
    "t-0", "train", "work", "汇报念错", "全场都觉得我不行。", LABEL, {part: f"{part}？" for part in corpus.PARTS}
)
TEST = replace(GOOD, id="t-1", split="test", second_answer=dict.fromkeys(corpus.PARTS, "又一封。"))
CRISIS = replace(GOOD, id="c-0", split="crisis", crisis=True, distortions=(), answer={"referral": "请联系身边的人。"})
RECORDS = [GOOD, TEST, CRISIS]


def llama_factory(folder, name):
    """What LLaMA-Factory makes of a data set: its rules for dataset_info.json (data/parser.py, data/converter.py)."""
    info = json.loads((folder / "dataset_info.json").read_text())[name]
    columns, tags = info["columns"], info.get("tags", {})
    for item in json.loads((folder / info["file_name"]).read_text("utf-8")):
        if info.get("formatting", "alpaca") == "alpaca":
            query = "\n".join(item[columns[key]] for key in ("prompt", "query") if item[columns[key]])
            yield [("user", query), ("assistant", item[columns["response"]])]
        else:
            roles = {tags["user_tag"]: "user", tags["assistant_tag"]: "assistant"}
            yield [(roles[turn[tags["role_tag"]]], turn[tags["content_tag"]]) for turn in item[columns["messages"]]]


@pytest.mark.parametrize("to", ["alpaca", "sharegpt"])
def test_llama_factory_reads_post_and_letter_and_no_crisis_record(tmp_path, to):
    paths = exports.export(RECORDS, to, tmp_path)
    assert [path.name for path in paths] == ["cbt_train.json", "cbt_test.json", "dataset_info.json"]
    for name, record in (("cbt_train", GOOD), ("cbt_test", TEST)):
        assert list(llama_factory(tmp_path, name)) == [[("user", record.post), ("assistant", record.answer_text)]]


def test_trl_reads_the_sharegpt_export_as_a_conversation_of_user_and_assistant(tmp_path):
    from datasets import load_dataset
    from trl.data_utils import is_conversational, is_conversational_from_value, maybe_convert_to_chatml

    path = exports.export(RECORDS, "sharegpt", tmp_path)[0]
    (row,) = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert is_conversational_from_value(row)
    row = maybe_convert_to_chatml(row)
    assert is_conversational(row)
    assert row["messages"] == [
        {"role": "user", "content": GOOD.post},
        {"role": "assistant", "content": GOOD.answer_text},
    ]


def test_the_openai_client_sends_a_batch_request_as_it_stands(tmp_path):
    (path, _) = exports.export(RECORDS, "openai-batch", tmp_path, model="m")
    (line,) = path.read_text("utf-8").splitlines()
    request = json.loads(line)
    assert set(request) == {"custom_id", "method", "url", "body"}
    assert (request["custom_id"], request["method"], request["url"]) == ("t-0", "POST", "/v1/chat/completions")
    sent = []

    def answer(call: httpx.Request) -> httpx.Response:
        sent.append((call.url.path, json.loads(call.content)))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "好。"}}
        return httpx.Response(
            200, json={"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        )

    client = openai.OpenAI(api_key="-", http_client=httpx.Client(transport=httpx.MockTransport(answer)))
    client.chat.completions.create(**request["body"])
    assert sent == [("/v1/chat/completions", request["body"])]
    assert GOOD.description in request["body"]["messages"][-1]["content"]


def test_parquet_reads_back_as_records(tmp_path):
    from datasets import load_dataset

    train, test = exports.export(RECORDS, "parquet", tmp_path)
    for path, record in ((train, GOOD), (test, TEST)):
        (row,) = load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
        assert corpus.parse(dict(row))[0] == record


def test_a_disk_that_is_full_leaves_the_export_of_before(tmp_path, monkeypatch):
    exports.export(RECORDS, "openai-batch", tmp_path, model="m")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CbtError, match="No space left"):
        exports.export(RECORDS, "openai-batch", tmp_path, model="another")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("to", "name"), [("alpaca", "cbt_test.json"), ("parquet", "test.parquet")])
def test_a_folder_in_the_place_of_a_file_is_named(tmp_path, to, name):
    (tmp_path / name).mkdir()
    with pytest.raises(CbtError, match=f"cannot write .*{name}: Is a directory"):
        exports.export(RECORDS, to, tmp_path)


@pytest.mark.parametrize(
    ("records", "to", "words"),
    [
        (RECORDS, "openai-batch", "--model"),
        (RECORDS, "xml", "cannot export"),
        ([CRISIS], "alpaca", "nothing to export"),
    ],
)
def test_an_export_that_cannot_be_is_refused_in_a_sentence(tmp_path, records, to, words):
    with pytest.raises(CbtError, match=words):
        exports.export(records, to, tmp_path)
