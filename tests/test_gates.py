"""Each gate against a defect of a kind that was found in public sets, and against what must pass."""

import itertools
import json
import os
import random
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cbtlib import CbtError, cli, corpus, gates, labelling, metrics, prompts

POSTS = [
    "地铁上忘了带伞，走到公司裤脚全湿，开会时一直觉得大家在看我的鞋。",
    "儿子转学第三周，作业本上老师写了两个字，我翻来覆去看了一晚上。",
    "退休金到账那天想给老伴买条围巾，站在柜台前又觉得自己多余。",
    "论文第二章被导师划掉半页，红笔像一条河，我坐在图书馆里不想动。",
    "跟发小约好去爬山，他临时说家里有事，我一个人把面包吃完了。",
    "新来的组长把周报格式改了三遍，我每次都最后一个交，心里发毛。",
]


def record(index: int, **fields) -> corpus.Record:
    answer = dict(
        zip(corpus.PARTS, (f"{part}，第{index}封信里的{POSTS[index]}？" for part in "甲乙丙丁戊"), strict=True)
    )
    good = corpus.Record(f"t-{index}", "train", "work", f"第{index}问", POSTS[index], (), answer)
    return replace(good, **fields)


def check(tmp_path, *records, against=(), support=0):
    corpus.dump(records, tmp_path / "a.jsonl")
    if against:
        corpus.dump(against, tmp_path / "b.jsonl")
    return gates.check([tmp_path / "a.jsonl"], [tmp_path / "b.jsonl"] if against else [], "records", support)


def found(report) -> list[str]:
    return [finding.gate for finding in report.findings]


def test_records_without_a_defect_pass(tmp_path):
    report = check(tmp_path, *(record(i) for i in range(6)))
    assert report.findings == []
    assert (report.lines, report.kept) == (6, 6)
    assert set(report.counts) == set(gates.GATES) and not any(report.counts.values())


def test_a_copy_is_a_duplicate_within_a_split_and_a_leak_across(tmp_path):
    copy = {"question": "第0问", "description": POSTS[0]}
    assert found(check(tmp_path, record(0), record(1, **copy))) == ["duplicate"]
    assert found(check(tmp_path, record(0), record(1, split="test", **copy))) == ["leak"]


def test_an_evaluation_set_that_overlaps_its_training_set_is_a_leak(tmp_path):
    train = [record(i) for i in range(3)]
    test = [record(2, id="x-2", split="test"), record(4, split="test")]
    report = check(tmp_path, *test, against=train)
    assert found(report) == ["leak", "leak"]  # the post and its letter
    assert report.findings[0].where.endswith("a.jsonl:1") and report.findings[0].other.endswith("b.jsonl:3")
    assert report.lines == 2


@pytest.mark.skipif(os.name == "nt", reason="a link needs a privilege there")
def test_a_file_is_not_checked_against_itself_however_it_is_spelled(tmp_path):
    corpus.dump([record(0)], tmp_path / "a.jsonl")
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    for other in (tmp_path / "a.jsonl", tmp_path / "." / ".." / tmp_path.name / "a.jsonl", tmp_path / "link.jsonl"):
        with pytest.raises(CbtError, match=r"a\.jsonl is checked against itself"):
            gates.check([tmp_path / "a.jsonl"], [other])


def test_a_reworded_post_is_a_near_duplicate(tmp_path):
    reworded = POSTS[0].replace("公司", "单位").replace("全湿", "湿透")
    assert found(check(tmp_path, record(0), record(1, description=reworded, split="dev"))) == ["leak"]


def test_a_text_too_short_for_ngrams_is_told_by_its_letters(tmp_path):
    for name, lines in (("a", "睡不着！\t1\n🌧️\t0\n我怕\t0\n"), ("b", "睡不着…\t0\n☀️\t0\n我累\t0\n")):
        (tmp_path / f"{name}.txt").write_text(lines, encoding="utf-8")
    report = gates.check([tmp_path / "a.txt"], [tmp_path / "b.txt"], support=0)
    assert [(finding.gate, finding.where.rpartition(":")[2]) for finding in report.findings] == [("leak", "1")]


def test_a_copy_in_traditional_or_full_width_characters_is_a_leak_once_normalised(tmp_path):
    copy = "地鐵上忘了帶傘，走到公司褲腳全濕，開會時一直覺得大家在看我的鞋。"
    corpus.dump([record(1, split="test", question="第０問", description=copy)], tmp_path / "test.jsonl")
    corpus.dump([record(0)], tmp_path / "train.jsonl")
    files = [tmp_path / "test.jsonl"], [tmp_path / "train.jsonl"]
    assert gates.check(*files, support=0).findings == []
    report = gates.check(*files, support=0, normalise=["width", "simplified"])
    assert found(report) == ["leak"]
    assert report.normalised == {"width": 1, "simplified": 11}


def test_a_question_that_nobody_answered_is_found(tmp_path):
    items = [{"question": "下雨", "description": "没带伞", "answers": []}]
    (tmp_path / "a.json").write_text(json.dumps(items), encoding="utf-8")
    assert found(gates.check([tmp_path / "a.json"])) == ["answer"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("作为一个AI语言模型，我不能提供心理治疗。", "a refusal"),
        ("抱歉，我无法回答这个问题。", "a refusal"),
        ("I'm sorry, but I can't help with that.", "a refusal"),
        ("ERROR", "an error message"),
        ("Error code: 429 - Rate limit reached for requests", "an error message"),
        ("Traceback (most recent call last): KeyError", "an error message"),
        ("<p>你好，<br>我理解你的感受。</p>", "HTML"),
        ('{"choices": [{"message": {"content": "你好"}}]}', "JSON debris"),
        ("```json 你好。```", "JSON debris"),
        ("你好。\\n我理解你。", "JSON debris"),
        ("nan", "no answer"),
        (" NULL ", "no answer"),
        ("……", "no answer"),
        ("你可以先从一件小事开始，比如", "breaks off"),
        ("你可以先从一件小事开始，", "breaks off"),
    ],
)
def test_what_is_no_letter_is_found(tmp_path, answer, words):
    parts = dict.fromkeys(corpus.PARTS[-1:], answer)
    whole = {**dict.fromkeys(corpus.PARTS[:-1], "嗯。"), **parts} if words == "breaks off" else None
    path = tmp_path / "a.csv"
    text = "\n".join(whole.values()) if whole else answer
    quoted = text.replace('"', '""')
    path.write_text(f'text,answer\n下雨了没带伞,"{quoted}"\n', encoding="utf-8")
    report = gates.check([path])
    assert found(report) == ["answer"]
    assert words in report.findings[0].what


def test_a_letter_that_apologises_is_no_refusal(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,answer\n下雨了没带伞,"他说过抱歉，你也说过不想再等。先打个电话问问？"\n', encoding="utf-8")
    assert gates.check([path]).findings == []


def dialogue(path, *turns):
    path.write_text(json.dumps([{"role": r, "content": c} for r, c in turns], ensure_ascii=False), encoding="utf-8")
    return path


def test_a_dialogue_without_a_counsellor_and_turns_of_another_client_are_found(tmp_path):
    one = dialogue(tmp_path / "1.json", ("client", POSTS[0]), ("counselor", "那天的会上谁说了什么，你还记得吗？"))
    two = dialogue(tmp_path / "2.json", ("client", POSTS[1]), ("client", POSTS[2]))
    mix = dialogue(
        tmp_path / "3.json",
        ("client", POSTS[3]),
        ("counselor", "嗯。"),
        ("client", POSTS[0]),
        ("counselor", "那就好。"),
    )
    assert found(gates.check([one])) == []
    assert found(gates.check([two])) == ["no counsellor"]
    (finding,) = gates.check([one, mix]).findings
    assert finding.gate == "mixed dialogue" and finding.other.endswith("1.json:1")
    (finding,) = gates.check([mix], against=[one]).findings
    assert finding.gate == "mixed dialogue" and finding.where.endswith("3.json:1"), "with a dialogue that is trained on"


def test_thanks_and_greetings_that_recur_are_no_mixed_dialogue(tmp_path):
    files = [
        dialogue(
            tmp_path / f"{index}.json",
            ("client", POSTS[index]),
            ("counselor", f"{POSTS[index + 3]}你怎么看？"),
            ("client", "好的，我会按照你的建议去试一试，谢谢你。"),
        )
        for index in range(2)
    ]
    assert gates.check(files).findings == []


def test_one_text_with_two_labels_is_found(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("我什么都做不好\t1\n今天下雨了\t0\n我什么都做不好\t0\n", encoding="utf-8")
    assert found(gates.check([path], support=0)) == ["duplicate", "two labels"]


def test_a_span_outside_its_text_is_found_in_foreign_files_too(tmp_path):
    labels = "[{'start': 0, 'end': 400, 'type': 'Restatement'}]"
    item = {
        "question": "下雨",
        "description": "没带伞",
        "answers": [{"answer_text": "你好。", "labels_sequence": labels}],
    }
    (tmp_path / "a.json").write_text(json.dumps([item], ensure_ascii=False), encoding="utf-8")
    assert found(gates.check([tmp_path / "a.json"])) == ["span"]


def test_a_crisis_post_outside_its_file_is_found_and_not_quoted(tmp_path):
    words = "昨晚写好了遗书，不想活了。"
    report = check(tmp_path, record(0, description=words))
    assert found(report) == ["crisis"]
    assert "遗书" not in str(report.findings)
    calm = record(1, split="crisis", crisis=True, answer={"referral": "请先联系身边的人。"})
    assert found(check(tmp_path, replace(calm, description=words))) == []
    assert found(check(tmp_path, replace(calm, split="test"))) == ["crisis"]


@pytest.mark.parametrize(
    "words", ["加我微信：lonely_cat88", "QQ 123456789", "手机13912345678", "a.b@mail.cn", "11010519491231002X"]
)
def test_personal_data_is_found_and_not_quoted(tmp_path, words):
    report = check(tmp_path, record(0, description=POSTS[0] + words))
    assert found(report) == ["personal data"]
    assert words not in report.findings[0].what


def test_a_label_too_rare_to_score_is_found_on_test_sets_only(tmp_path):
    label = (corpus.Label("labelling", 0, 4),)
    report = check(tmp_path, record(0, split="test", distortions=label), support=2)
    assert len(report.findings) == len(corpus.TYPES)
    assert "'labelling' has 1 positives" in str(report.findings)
    assert check(tmp_path, record(0, distortions=label), support=2).findings == []


def test_lines_that_cannot_be_read_are_findings_and_are_counted(tmp_path):
    corpus.dump([record(0)], tmp_path / "a.jsonl")
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("{broken\n")
    report = gates.check([tmp_path / "a.jsonl"])
    assert (report.lines, report.kept, found(report)) == (2, 1, ["schema"])


def test_a_file_that_is_none_is_one_sentence_and_no_finding(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with zipfile.ZipFile(tmp_path / "zip.json", "w") as archive:
        archive.writestr("a.jsonl", "{}")
    (tmp_path / "utf16.jsonl").write_bytes('{"id": "天"}'.encode("utf-16"))
    for name, words in (
        ("empty.jsonl", "is empty"),
        ("zip.json", "zip, gzip or parquet"),
        ("utf16.jsonl", "UTF-8"),
        (".", "is a directory"),
        ("none.jsonl", "does not exist"),
    ):
        with pytest.raises(CbtError, match=words):
            gates.check([tmp_path / name])
    with pytest.raises(CbtError, match="at least one file"):
        gates.check([])


def jaccard(a: str, b: str) -> float:
    one, two = ({t[i : i + 5] for i in range(len(t) - 4)} for t in (a, b))
    return len(one & two) / max(1, len(one | two))


@settings(max_examples=60)
@given(st.lists(st.text("天地人你我他", min_size=5, max_size=40), max_size=12))
def test_near_duplicates_are_those_of_the_definition(texts):
    truth = {(i, j) for j in range(len(texts)) for i in range(j) if jaccard(texts[i], texts[j]) >= 0.3}
    assert {(i, j) for i, j, _ in gates.near_duplicates(texts)} == truth


def inside(a: str, b: str) -> float:
    one, two = ({t[i : i + 5] for i in range(len(t) - 4)} for t in (a, b))
    return len(one & two) / len(one) if len(one) >= 8 else 0.0


@settings(max_examples=60)
@given(st.lists(st.text("天地人你我他", min_size=5, max_size=40), max_size=9), st.integers(0, 9))
def test_what_repeats_another_part_is_as_defined(texts, training):
    part = np.arange(len(texts)) >= training
    truth = {
        (i, j)
        for i, j in itertools.product(range(len(texts)), repeat=2)
        if part[i] and not part[j] and (jaccard(texts[i], texts[j]) >= 0.3 or inside(texts[i], texts[j]) >= 0.8)
    }
    assert {(i, j) for i, j, _ in gates.repeated(texts, part, part)} == truth


def test_a_text_inside_a_longer_one_is_found_wherever_it_stands():
    rng = random.Random(0)
    letters = [chr(0x4E00 + k) for k in range(3000)]
    texts = ["".join(rng.choices(letters, k=60)) for _ in range(200)]
    frames = "".join(rng.choices(letters, k=500))  # the same instruction around every post, as training files have it
    training = [frames + text + frames[:k] for k, text in enumerate(texts)]
    packed = ["".join(texts[k : k + 5]) for k in range(0, 200, 5)]
    for held in (training, packed):
        both = [*held, *texts]
        part = np.arange(len(both)) >= len(held)
        found = gates.repeated(both, part, part)
        assert {i for i, _, share in found if share == 1} == set(range(len(held), len(both)))
        assert all(texts[i - len(held)] in held[j] for i, j, _ in found)


def test_in_a_flood_from_one_template_every_text_of_the_other_part_is_found():
    texts = [f"我叫小{chr(0x4E00 + k)}，今年{k}岁，{POSTS[0]}{POSTS[1]}住在{k * k}路" for k in range(300)]
    part = np.arange(300) >= 250
    assert {i for i, *_ in gates.repeated(texts, part, part)} == set(range(250, 300))


def test_a_training_post_behind_an_instruction_and_a_sentence_of_one_are_leaks(tmp_path):
    corpus.dump([record(0, description="".join(POSTS))], tmp_path / "test.jsonl")
    held = corpus.load(tmp_path / "test.jsonl")[0].post
    instruction = prompts.get("five_parts").text
    line = {"instruction": f"{instruction}\n{held}", "input": "", "output": "好"}
    (tmp_path / "train.json").write_text(json.dumps([line]), "utf-8")
    report = gates.check([tmp_path / "test.jsonl"], [tmp_path / "train.json"])
    assert "leak" in {finding.gate for finding in report.findings}
    with pytest.raises(metrics.LeakError):
        metrics.leak_gate([f"{instruction}\n{held}"], [held])
    sentence = max(POSTS, key=len)
    assert labelling.copies([held, sentence], np.array([0, 1])).tolist() == [False, True]


def test_near_duplicates_of_long_texts_are_found_from_a_sample_of_their_ngrams():
    rng = random.Random(0)
    letters = [chr(0x4E00 + k) for k in range(3000)]
    texts = ["".join(rng.choices(letters, k=400)) for _ in range(80)]
    texts += [text[:260] + "".join(rng.choices(letters, k=140)) for text in texts[:40]]  # Jaccard about 0.48
    pairs = gates.near_duplicates(texts)
    assert {(i, j) for i, j, _ in pairs} == {(i, 80 + i) for i in range(40)}
    assert all(jaccard(texts[i], texts[j]) == pytest.approx(value) for i, j, value in pairs)


def test_a_few_short_texts_among_long_ones_lose_no_copy():
    rng = random.Random(0)
    letters = [chr(0x4E00 + k) for k in range(3000)]
    long = ["".join(rng.choices(letters, k=600)) for _ in range(300)]
    short = ["".join(rng.choices(letters, k=60)) for _ in range(7)]  # with their copies under 5% of all
    texts = [*long, *short, *(text[:40] + "".join(rng.choices(letters, k=20)) for text in short)]  # Jaccard 0.47
    assert [(i, j) for i, j, _ in gates.near_duplicates(texts)] == [(i, i + 7) for i in range(300, 307)]


def test_a_flood_of_copies_is_found_as_a_chain():
    texts = [f"{POSTS[0]}{POSTS[1]}{POSTS[2]}第{i}次" for i in range(300)]
    pairs = {(i, j) for i, j, _ in gates.near_duplicates(texts)}
    assert {(i, i + 1) for i in range(299)} <= pairs
    assert len(pairs) < 2000


def test_the_command_exits_with_1_on_a_finding_and_prints_json(tmp_path):
    corpus.dump([record(0), record(1, description=POSTS[0], question="第0问")], tmp_path / "a.jsonl")
    result = CliRunner().invoke(cli.app, ["corpus", "check", str(tmp_path / "a.jsonl"), "--json"])
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["counts"]["duplicate"] == 1 and told["lines"] == 2
    corpus.dump([record(0)], tmp_path / "a.jsonl")
    assert CliRunner().invoke(cli.app, ["corpus", "check", str(tmp_path / "a.jsonl")]).exit_code == 0


def test_the_books_own_corpus_passes_every_gate():
    report = gates.check(corpus.own_files())
    assert report.findings == []


def test_a_copy_among_texts_that_share_all_their_phrases_is_found():
    generator = random.Random(5)
    phrases = [
        [f"{a}{b}，" for b in "想哭发呆失眠后悔害怕烦躁"]
        for a in ("昨天老板骂我", "室友一句话不说", "高考以后", "分手那天", "这半年")
    ]
    texts = ["".join(generator.choice(generator.choice(phrases)) for _ in range(12)) for _ in range(3000)]
    copies = [text[:31] + "龘" + text[32:] for text in texts[::300]]
    found = {(i, j) for i, j, _ in gates.near_duplicates([*texts, *copies])}
    assert {(300 * number, 3000 + number) for number in range(10)} <= found


ERRORS = ["服务器繁忙，稍后再来。", "请求超时。", "Rate limit reached for this model.", "RemoteDisconnected."]
ERRORS += ["Traceback (most recent call last).", "HTTP 502.", "错误：没有结果。", "Connection error."]


@pytest.mark.parametrize(
    ("text", "what"), [*((text, "an error message") for text in ERRORS), ("对不起，我不能。", "a refusal")]
)
def test_every_word_of_a_defect_stops_an_answer(tmp_path, text, what):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "下雨了", "answer": text}], ensure_ascii=False), "utf-8")
    findings = gates.check([path]).findings
    assert [(one.gate, one.what.split(": ")[0]) for one in findings] == [("answer", f"the answer holds {what}")]


@pytest.mark.parametrize(("end", "gate"), [(3, []), (4, ["span"])])
def test_a_span_one_character_too_long_is_found(tmp_path, end, gate):
    labels = f"[{{'start': 0, 'end': {end}, 'type': 'x'}}]"
    item = {
        "question": "下雨",
        "description": "没带伞",
        "answers": [{"answer_text": "你好。", "labels_sequence": labels}],
    }
    (tmp_path / "a.json").write_text(json.dumps([item], ensure_ascii=False), "utf-8")
    assert [one.gate for one in gates.check([tmp_path / "a.json"]).findings] == gate


def test_one_text_spaced_otherwise_with_two_labels_is_found(tmp_path):
    (tmp_path / "a.txt").write_text("我什么都做不好\t1\n我什么都 做不好\t0\n", "utf-8")
    assert "two labels" in [one.gate for one in gates.check([tmp_path / "a.txt"], support=0).findings]
