"""The corpus in the forms that other tools read as they are.

    parquet       one file a split, nested fields kept; `datasets.load_dataset("parquet", data_files=...)`
    alpaca        LLaMA-Factory: instruction, input, output, and the dataset_info.json it wants
    sharegpt      LLaMA-Factory and TRL: conversations of from (user, assistant) and value
    openai-batch  one request a line for the OpenAI Batch API, made by a prompt of the book

Crisis records are never exported for training: their referral is no letter to learn from. ShareGPT's own roles are
human and gpt, but TRL passes roles on to a chat template that knows user and assistant, so these stand here, and the
`tags` of dataset_info.json tell LLaMA-Factory.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cbtlib import CbtError
from cbtlib.corpus import SPLITS, Record, to_dict
from cbtlib.writing import json_lines, json_text, make_folder, write_text

TARGETS = ("parquet", "alpaca", "sharegpt", "openai-batch")


def export(records: Sequence[Record], to: str, out: Path, prompt: str = "five_parts", model: str = "") -> list[Path]:
    """Write one file for each split of the records into folder `out` and return the paths.

    CbtError for another target, requests without a model, and a folder that cannot be written.
    """
    if to not in TARGETS:
        raise CbtError(f"cannot export to {to!r}: choose one of {', '.join(TARGETS)}")
    if to == "openai-batch" and not model:
        raise CbtError("openai-batch needs --model: each request names the model that answers it")
    try:
        return _export(records, to, make_folder(out), prompt, model)
    except OSError as error:
        where = error.filename2 or error.filename or out  # the file that is renamed, and its place
        raise CbtError(f"cannot write {where}: {error.strerror}; move what is there, or give another --out") from None


def _export(records: Sequence[Record], to: str, out: Path, prompt: str, model: str) -> list[Path]:
    written = []
    for split in SPLITS:
        rows = [record for record in records if record.split == split and not record.crisis]
        if not rows:
            continue
        if to == "parquet":
            from datasets import Dataset

            path = out / f"{split}.parquet"
            items = [{**to_dict(x), "gloss": x.gloss or None, "second_answer": x.second_answer} for x in rows]
            part = path.with_name(f"{path.name}.part")
            Dataset.from_list(items).to_parquet(str(part))
            part.replace(path)
        elif to == "openai-batch":
            path = out / f"{split}.batch.jsonl"
            write_text(path, json_lines(_request(record, prompt, model) for record in rows))
        else:
            path = out / f"cbt_{split}.json"
            pairs = [_alpaca(record) if to == "alpaca" else _sharegpt(record) for record in rows]
            write_text(path, json_text(pairs))
        written.append(path)
    if not written:
        raise CbtError("there is nothing to export: every record is a crisis record")
    if to in ("alpaca", "sharegpt"):
        info = {path.stem: {"file_name": path.name, **_INFO[to]} for path in written}
        written.append(out / "dataset_info.json")
        write_text(written[-1], json.dumps(info, indent=2) + "\n")
    return written


_INFO: dict[str, dict[str, Any]] = {
    "alpaca": {"columns": {"prompt": "instruction", "query": "input", "response": "output"}},
    "sharegpt": {
        "formatting": "sharegpt",
        "columns": {"messages": "conversations"},
        "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "user", "assistant_tag": "assistant"},
    },
}


def _alpaca(record: Record) -> dict[str, str]:
    return {"instruction": record.question, "input": record.description, "output": record.answer_text}


def _sharegpt(record: Record) -> dict[str, Any]:
    turns = (("user", record.post), ("assistant", record.answer_text))
    return {"id": record.id, "conversations": [{"from": who, "value": text} for who, text in turns]}


def _request(record: Record, prompt: str, model: str) -> dict[str, Any]:
    from cbtlib import prompts

    messages = prompts.get(prompt).messages(record.question, record.description)
    body = {"model": model, "messages": messages}
    return {"custom_id": record.id, "method": "POST", "url": "/v1/chat/completions", "body": body}
