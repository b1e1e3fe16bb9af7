"""Labels read off an answer: names in two languages, negation, and nothing made of what is missing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtlib import CbtError, distortions
from cbtlib.corpus import TYPES, Label, Record


@pytest.mark.parametrize("kind", TYPES)
def test_every_name_and_alias_is_found(kind):
    row = distortions.taxonomy().set_index("id").loc[kind]
    for cell in (row["zh"], row["en"], row["aliases_zh"], row["aliases_en"]):
        for name in cell.split("|"):
            assert distortions.extract(f"这句话里有{name}的影子。") == {kind}, name
            assert distortions.extract(f"One could call it {name.upper()}.") == {kind}, name


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("这里有两种：以偏概全，还有贴标签。", {"overgeneralisation", "labelling"}),
        ("这不是读心术，你亲耳听见了。", set()),
        ("没有在贴标签，只是在描述。", set()),
        ("谁也没法预测未来。", set()),
        ("这不是事实，而是读心术。", {"mind_reading"}),
        ("这是不是读心术？", {"mind_reading"}),
        ("前面那句不是，后面那句是灾难化。", {"magnification"}),
        ("It is not mind reading, it is labelling.", {"labelling"}),
        ("There is no catastrophizing here.", set()),
        ("夸大和缩小都出现了。", {"magnification"}),
        ("属于mind reading的一种", {"mind_reading"}),
        ("The blaming-shaming game", {"personalisation"}),
        ("unblaming words", set()),
        ("这是labelling rather than mind reading", {"labelling"}),
        ("I don’t see any mind reading here.", set()),
        ("This is not only mind reading.", {"mind_reading"}),
        ("这不是读心术（mind reading）、贴标签（labelling）或者灾难化。", set()),
        ("It is not mind reading, labelling or magnification.", set()),
        ("这不是事实而是贴标签和灾难化。", {"labelling", "magnification"}),
        ("不能说没有以偏概全。", {"overgeneralisation"}),
        ("不得不说这是灾难化。", {"magnification"}),
        ("你没有意识到自己在贴标签。", {"labelling"}),
        ("没有证据就读心术了。", {"mind_reading"}),
        ("识别读心术，特别是灾难化，别人给你贴标签。", {"mind_reading", "magnification", "labelling"}),
        ("别给自己贴标签。", set()),
        ("- **灾难化**（catastrophizing）：无\n- **贴标签**：有\n", {"labelling"}),
        ("灾难化：没有根据就断定最坏的结果。", {"magnification"}),
        ("這是貼標籤，並非讀心術，也沒有災難化。", {"labelling"}),
        ("ＭＩＮＤ\nＲＥＡＤＩＮＧ", {"mind_reading"}),
        ("这是「应该」思维。", {"should_statements"}),
        ("攻读心理学的一个人化妆、解读心情。", set()),
        ("半个字符\ud800旁的读心术", {"mind_reading"}),
        ("今天下雨了。", set()),
        ("", set()),
    ],
)
def test_what_is_named_and_not_denied_is_a_label(text, labels):
    assert distortions.extract(text) == labels


def test_a_mention_says_where_it_stands():
    text = "这不是读心术，是贴标签。"
    first, second = distortions.mentions(text)
    assert (first.type, first.negated, text[first.start : first.end]) == ("mind_reading", True, "读心术")
    assert (second.type, second.negated, text[second.start : second.end]) == ("labelling", False, "贴标签")


@settings(max_examples=60)
@given(st.text())
def test_any_text_has_labels_or_none(text):
    assert distortions.extract(text) <= set(TYPES)


def test_a_missing_label_is_refused_and_never_no_distortion():
    with pytest.raises(CbtError, match="1 of 3 items have no labels"):
        distortions.matrix([{"labelling"}, None, set()])
    with pytest.raises(CbtError, match="item 1 has the label 'worry'"):
        distortions.matrix([{"worry"}])


def test_gold_labels_become_columns_in_the_order_of_the_types():
    record = Record("a", "test", "work", "q", "我就是个废物", (Label("labelling", 0, 6), Label("labelling", 1, 3)), {})
    table = distortions.of_records([record, Record("b", "test", "work", "q", "d", (), {})])
    assert table.shape == (2, 11) and table.dtype == bool
    assert np.flatnonzero(table[0]).tolist() == [TYPES.index("labelling")]
    assert not table[1].any()


def test_other_schemes_map_to_our_types():
    assert distortions.translate("socialcd3k")["罪责归他"] == "personalisation"
    assert distortions.translate("cbt_bench")["all-or-nothing thinking"] == "all_or_nothing"
    assert len(distortions.translate("c2d2")) == 7
    assert distortions.names("zh")["labelling"] == "贴标签"
    with pytest.raises(CbtError, match="no mapping"):
        distortions.translate("dsm")
    with pytest.raises(CbtError, match="no names"):
        distortions.names("fr")


def test_the_taxonomy_cannot_be_changed_by_its_reader():
    table = distortions.taxonomy()
    table.loc[0, "zh"] = "x"
    assert distortions.taxonomy().loc[0, "zh"] == "非黑即白"
