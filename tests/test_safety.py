"""Triage: a false calm is worse than a false alarm, and figures of speech are neither."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cbtlib import CbtError, corpus, risk, safety
from cbtlib.cli import app

# Invented lines, one for each kind of sign and each way of hiding it.
CRISIS = [
    "我不想活了",
    "真的活不下去了，每天都在想怎么结束自己的生命",
    "我想4了，别拦我",
    "紫砂的念头越来越强",
    "自 杀 这两个字天天在脑子里",
    "要是我消失了，他们会轻松很多吧",
    "睡过去不醒来就好了",
    "遗书写好了，放在抽屉里",
    "站在天台上吹了一个小时的风",
    "安眠药攒了半瓶了",
    "昨晚又用刀片划了胳膊",
    "疼的时候才觉得自己还活着",
    "他昨晚又喝醉了动手，把我打得鼻子流血",
    "耳边一直有声音叫我去跳下去",
    "再这样我就跟他们同归于尽",
    "我没有一天不想死",
    "没有勇气活下去",
    "不是没想过死，是想过很多次",
]
LOOKALIKES = [
    "累死了，加班到凌晨两点",
    "笑死，我妈把红包发到了工作群",
    "想死你了，宝贝快回来",
    "社死现场，我想找个地缝",
    "这条死线之前交不出来就完了",
    "墙上吊着一盏灯，晃得眼睛疼",
    "周年庆跳楼价，我没忍住买了三件",
    "紫砂壶摔了，爸爸念叨了一个星期",
    "他这个人就是死脑筋，怎么讲都不听",
    "打我电话我没接到",
]
LOWERED = [
    "我没想过自杀，就是觉得累",
    "电影里的主角最后自杀了，我哭了很久",
    "朋友前年跳楼走了，我到现在都不敢路过那栋楼",
    "十年前我写过遗书，那时候年轻",
]


@pytest.mark.parametrize("post", CRISIS)
def test_a_sign_of_crisis_is_never_calm(post):
    assert safety.triage(post).level == "crisis"


@pytest.mark.parametrize("post", LOOKALIKES)
def test_a_figure_of_speech_is_no_alarm(post):
    assert safety.triage(post) == safety.Triage("none")


@pytest.mark.parametrize("post", LOWERED)
def test_what_is_denied_past_or_in_a_story_stays_a_concern(post):
    assert safety.triage(post).level == "concern"


@pytest.mark.parametrize("post", ["我觉得生活没意义", "人生好像失去了意义，每天空空的", "一切都没什么意思了"])
def test_a_life_without_meaning_is_a_reason_to_ask(post):
    assert safety.triage(post).level == "concern" and safety.triage("这部电影没意思").level == "none"


@pytest.mark.parametrize("post", CRISIS)
@given(before=st.text(st.sampled_from("今天天气很好我在家里。，\n 😀"), max_size=20), after=st.text(max_size=20))
def test_text_around_a_sign_in_other_sentences_does_not_calm_it(post, before, after):
    assert safety.triage(f"{before}。{post}。{after}").level == "crisis"


def test_the_books_ordinary_posts_hardly_raise_an_alarm():
    posts = [record.post for split in ("train", "dev", "test") for record in corpus.load_split(split)]
    alarms = sum(safety.triage(post).level == "crisis" for post in posts)
    assert alarms <= 0.02 * len(posts)


def test_the_reason_names_rules_and_quotes_nothing():
    found = safety.triage("遗书写好了，密码都写在里面")
    assert found.reasons and not any("遗书" in reason for reason in found.reasons)


def test_the_referral_names_the_lines_and_promises_no_hours():
    assert all(number in safety.REFERRAL for number in ("12356", "110", "120"))
    assert "24" not in safety.REFERRAL and "一定" not in safety.REFERRAL


@given(st.text())
def test_any_text_has_a_level(text):
    assert safety.triage(text).level in safety.LEVELS


@given(st.sampled_from(CRISIS + LOWERED), st.text(max_size=10))
def test_the_quick_look_at_characters_hides_no_rule(post, more):
    """What the character index rules out must not match."""
    _, rules, _ = safety._rules()
    plain = safety.normalise(post + more)
    quick = {id(rule) for rule in rules.candidates(frozenset(plain))}
    every = {id(rule): rule for found in rules.by_character.values() for rule in found}
    assert [
        rule.pattern.pattern for key, rule in every.items() if key not in quick and rule.pattern.search(plain)
    ] == []


def test_evaluation_counts_by_hand():
    found = [safety.triage(post) for post in (CRISIS[0], CRISIS[1], LOOKALIKES[0], LOWERED[0])]
    table = safety.evaluate(found, [True, True, False, True]).set_index("alarm")
    assert table.loc["crisis", ["recall", "precision", "false_calm", "false_alarm"]].tolist() == [2 / 3, 1.0, 1, 0]
    assert table.loc["concern or crisis", ["recall", "precision", "false_calm"]].tolist() == [1.0, 1.0, 0]
    row = table.loc["crisis"]
    assert row["recall_low"] < row["recall"] < row["recall_high"] and row["precision_high"] == 1.0


def test_a_share_of_nothing_is_not_a_number():
    row = safety.evaluate([safety.triage("天气很好")], [False]).iloc[0]
    assert math.isnan(row["recall"]) and math.isnan(row["precision"])
    with pytest.raises(CbtError, match="one label for each"):
        safety.evaluate([safety.Triage("none")], [])


def test_labelled_files_in_three_forms_give_the_same_posts(tmp_path):
    rows = [{"text": "甲", "label": "1"}, {"text": "乙", "label": "0"}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    (tmp_path / "a.csv").write_text("text,label\n甲,1\n乙,0\n", encoding="utf-8")
    (tmp_path / "a.tsv").write_text("text\tlabel\n甲\thigh\n乙\tlow\n", encoding="utf-8")
    expected = (["甲", "乙"], [True, False])
    assert safety.read_labelled(tmp_path / "a.jsonl") == safety.read_labelled(tmp_path / "a.csv") == expected
    assert safety.read_labelled(tmp_path / "a.tsv", positive=["high"]) == expected


def test_a_line_separator_inside_a_post_ends_no_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "甲\u2028\x85乙", "label": "1"}\r\n', encoding="utf-8")
    assert safety.read_labelled(tmp_path / "a.jsonl") == (["甲\u2028\x85乙"], [True])


def test_a_file_in_gb18030_without_a_header_and_with_line_breaks_in_a_post_is_read(tmp_path):
    (tmp_path / "a.tsv").write_bytes('7\thigh\t"甲\n乙"\n8\tlow\t丙\n'.encode("gb18030"))
    expected = (["甲\n乙", "丙"], [True, False])
    assert safety.read_labelled(tmp_path / "a.tsv", text="3", label="2", positive=["HIGH"]) == expected


def test_a_label_that_nobody_explained_is_an_error_and_no_calm_post(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n甲,1\n乙,高危\n", encoding="utf-8")
    with pytest.raises(CbtError, match="line 3: the label '高危'"):
        safety.read_labelled(path)
    assert safety.read_labelled(path, positive=["1", "高危"])[1] == [True, True]
    path.write_text("text,label\n乙,1\n甲\n", encoding="utf-8")
    with pytest.raises(CbtError, match="line 3"):
        safety.read_labelled(path)


@pytest.mark.parametrize("names", [{}, {"text": "2", "label": "1"}])
def test_a_row_with_another_number_of_cells_is_an_error_and_no_calm_post(tmp_path, names):
    path = tmp_path / "a.csv"
    for row, cells in (("0,1,我不想活了", 3), ("1", 1)):  # the first would be the post 1 with the label 0
        path.write_text("label,text\n" * (not names) + f"1,乙\n\n{row}\n", encoding="utf-8")
        line = 3 if names else 4
        with pytest.raises(CbtError, match=rf"a\.csv[\s\S]*line {line}: has ({cells} cells|another number of cells)"):
            safety.read_labelled(path, **names)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "text,label,label\n甲,1,0\n"), ("a.jsonl", '{"text": "甲", "label": 1, "label": 0}')],
)
def test_two_labels_of_one_name_are_an_error(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CbtError, match=r"line 1.*'label' stands twice"):
        safety.read_labelled(tmp_path / name)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"text": None, "label": 1}, "line 2, field text: is no text"),
        ({"text": ["我不想活了"], "label": 1}, "line 2, field text: is no text"),
        ({"post": "我不想活了", "label": 1}, "line 2, field text: is no text"),
        ({"text": " ", "label": 1}, "line 2, field text: is empty"),
        ({"text": "我不想活了", "label": ["1"]}, "line 2: the label"),
    ],
)
def test_a_row_without_a_text_or_a_label_is_an_error_and_no_missed_crisis(tmp_path, second, message):
    path = tmp_path / "a.jsonl"
    rows = ({"text": "我不想活了", "label": 1}, second)
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for positive in ([], ["1"]):
        with pytest.raises(CbtError, match=rf"a\.jsonl, {message}"):
            safety.read_labelled(path, positive=positive)


@pytest.mark.parametrize("said", [{"outcome": "unparsed"}, {"error": "ReadTimeout"}])
def test_a_label_of_a_call_that_failed_makes_no_calm_post(tmp_path, said):
    rows = [{"text": "雨", "label": "none"}, {"text": "我想死", "label": "none", **said}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.raises(CbtError, match="line 2: the row says that it is no data"):
        safety.read_labelled(tmp_path / "a.jsonl")


def test_a_positive_label_that_no_row_has_is_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n甲,high\n乙,low\n", encoding="utf-8")
    with pytest.raises(CbtError, match=r"no row has the label 'hihg' of --positive; .*: high, low"):
        safety.read_labelled(path, positive=["high", "hihg"])


def test_a_rule_that_is_no_pattern_is_named_with_its_line(tmp_path, monkeypatch):
    path = tmp_path / "rules.csv"
    path.write_text("level,rule,pattern\ncrisis,a,想死\ncrisis,b,[想，\n", encoding="utf-8")
    monkeypatch.setattr(safety, "RULES", path)
    safety._rules.cache_clear()
    with pytest.raises(CbtError, match="line 3"):
        safety.triage("想死")
    monkeypatch.undo()
    safety._rules.cache_clear()


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no posts"), ("{", "line 1"), ('{"a": 1}', "say which"), ("[]", "no posts"), ("[1]", "object")],
)
def test_a_file_without_posts_or_labels_is_refused(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(CbtError, match=message):
        safety.read_labelled(tmp_path / "a.jsonl")


def test_a_label_that_nobody_explained_is_no_calm_post(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n甲,高危\n乙,低危\n丙,未标注\n丁,低危\n", "utf-8")
    with pytest.raises(CbtError, match=r"line 3: the label '低危' may mean anything; say --positive or --negative"):
        safety.read_labelled(path, positive=["高危"])
    with pytest.raises(CbtError, match=r"line 4: the label '未标注' may mean anything"):
        safety.read_labelled(path, positive=["高危"], negative=["低危"])
    path.write_text(path.read_text("utf-8").replace("丙,未标注\n", ""), "utf-8")
    assert safety.read_labelled(path, positive=["高危"])[1] == [True, False, False], "of two labels the other is none"


def test_the_command_prints_figures_and_no_post(tmp_path):
    path = tmp_path / "gold.csv"
    path.write_text(f"text,label\n{CRISIS[0]},1\n{LOOKALIKES[0]},0\n", encoding="utf-8")
    command = [sys.executable, "-m", "cbtlib", "safety", "evaluate", "--triage", "rules", "--data", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "recall" in done.stdout and "不想活" not in done.stdout
    command[command.index("rules")] = "foo"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("cbt: --triage foo: write full")


@pytest.mark.parametrize("nothing", ["nan", "N/A", " ", "None"])
def test_a_missing_text_is_no_crisis_that_triage_missed(tmp_path, nothing):
    path = tmp_path / "s.csv"
    path.write_text(f"text,label\n今天天气好,0\n{nothing},1\n", "utf-8")
    with pytest.raises(CbtError, match="line 3, field text: is empty"):
        safety.read_labelled(path)


@pytest.fixture
def evaluated(monkeypatch):
    """What the command makes of a file, with a classifier that takes every post for a crisis."""
    monkeypatch.setattr(risk.Classifier, "scores", lambda self, posts: np.full(len(posts), 1e9))
    return lambda *words: CliRunner().invoke(app, ["safety", "evaluate", "--data", *map(str, words)])


def test_a_recall_on_the_classifiers_own_posts_is_named_and_given_without_them(evaluated):
    done = evaluated(risk.POSTS)
    assert done.output.startswith("346 of 406 posts are, or nearly are, what the classifier was fitted on\n")
    rows = {line.split()[0]: line.split()[1:] for line in done.output.splitlines()[2:]}
    assert rows["posts"] == ["406"] * 4 + ["60"] * 4 and rows["crisis_posts"] == ["195"] * 4 + ["30"] * 4
    rules = safety.evaluate([safety.triage(post) for post in risk.posts("heldout")[0]], risk.posts("heldout")[1])
    assert rows["recall"][4:6] == [str(value) for value in rules["recall"].round(3)]
    assert rows["false_calm"][6:] == ["0", "0"] and rows["false_alarm"][6:] == ["30", "30"]


def test_posts_that_are_new_to_the_classifier_have_one_table_and_none_that_is_new_has_no_figure(evaluated, tmp_path):
    path = tmp_path / "gold.csv"
    path.write_text(f"text,label\n{CRISIS[0]},1\n{LOOKALIKES[0]},0\n", encoding="utf-8")
    done = evaluated(path)
    assert "fitted" not in done.output and "new" not in done.output and "full" in done.output
    old = [json.dumps({"text": record.post, "crisis": 0}) for record in corpus.load_split("train")]
    path = tmp_path / "old.jsonl"
    path.write_text("\n".join(old), encoding="utf-8")
    refused = evaluated(path).exception
    assert isinstance(refused, CbtError) and f"{path}: all 280 posts are, or nearly are, what the" in str(refused)
    assert "fitted" not in evaluated(path, "--triage", "rules").output, "the rules were fitted to nothing"
