"""Quality of text: what the measures see, and the bar that the book's own corpus has to pass."""

import json
import random
import re

import pytest
from test_gates import record as made
from typer.testing import CliRunner

from cbtlib import CbtError, cli, corpus, formats, quality


@pytest.fixture(scope="module")
def splits() -> dict[str, list[corpus.Record]]:
    return {name: corpus.load_split(name) for name in corpus.SPLITS}


@pytest.fixture(scope="module")
def letters(splits) -> list[corpus.Record]:
    return [record for name in ("train", "dev", "test") for record in splits[name]]


def test_the_books_letters_pass_the_bar_of_variety(letters):
    found = quality.measure(letters)
    assert found.repeated_runs == 0 and found.near_duplicates == 0
    assert found.commonest_opening <= 0.02 and found.distinct_4 >= 0.75
    assert found.quoting == 1 and found.asking == 1


def test_the_books_corpus_has_its_sizes_lengths_and_glosses(splits, letters):
    assert [len(splits[name]) for name in ("train", "dev", "test")] == [280, 40, 80]
    assert {record.topic for record in splits["test"]} == set(corpus.TOPICS)
    for record in letters:
        assert 7 <= len(record.question) <= 40 and 60 <= len(record.description) <= 400, record.id
        assert 350 <= len(record.answer_text) <= 900, record.id
        assert set(record.gloss) == {"question", "key_thought"} and all(record.gloss.values()), record.id
        assert (record.second_answer is not None) == (record.split == "test"), record.id


def test_the_books_labels_are_enough_to_report_and_a_third_of_the_posts_has_none(splits, letters):
    for kind in corpus.TYPES:
        assert sum(kind in record.types for record in letters) >= 25, kind
        assert sum(kind in record.types for record in splits["test"]) >= 6, kind
    for records in (letters, splits["test"]):
        assert sum(not record.types for record in records) >= 0.3 * len(records)


def test_the_crisis_file_holds_as_many_lookalikes_as_risks_and_answers_no_risk_with_cbt(splits):
    risks = [record for record in splits["crisis"] if record.crisis]
    assert len(risks) == 20 and len(splits["crisis"]) == 40
    assert len({record.answer_text for record in risks}) == 1 and "12356" in risks[0].answer_text
    assert not any(record.distortions for record in splits["crisis"])


LIFE = re.compile(
    "我(?:教书|当老师|当过|教过|退休|年轻的?时候|小时候|当年|认识一|见过|奶奶|爷爷|老伴|老头|家里|台里|班上|念书|头回|也有过)"
    "|我(?:年年|从前|十.岁|四十)|我们(?:台|馆|学校|厂里?)"
)


def test_no_letter_claims_a_life_of_its_own(letters):
    """A model tuned on "when I was a teacher" says so of itself. Words in quotation marks are the client's to say."""
    for record in letters:
        for text in (record.answer_text, record.second_answer_text):
            assert not (found := LIFE.search(re.sub("“[^”]*”", "", text))), f"{record.id}: {found[0]}"


def test_quality_sees_stock_phrases_and_missing_quotes():
    plain = quality.measure([made(i) for i in range(4)])
    assert plain.quoting == 1.0 and plain.asking == 1.0 and plain.repeated_runs == 0
    stock = "请你记得要好好照顾自己的身体。"
    dull = [made(i, answer=dict.fromkeys(corpus.PARTS, stock)) for i in range(4)]
    poor = quality.measure(dull)
    assert poor.quoting == 0.0 and poor.asking == 0.0 and poor.commonest_opening == 1.0
    assert poor.repeated_runs > 0 and poor.near_duplicates == 6
    assert poor.self_bleu == pytest.approx(100) and plain.self_bleu < poor.self_bleu
    with pytest.raises(CbtError, match="two records"):
        quality.measure([made(0)])


def test_aggregates_hold_no_text_and_stand_on_an_equal_footing():
    rng = random.Random(0)
    letters = [chr(0x4E00 + k) for k in range(3000)]

    def sample(index: int, length: int) -> formats.Sample:
        return formats.Sample(str(index), index, f"第{index}问", "".join(rng.choices(letters, k=length - 1)) + "？")

    long = [sample(i, 400 + i) for i in range(250)]
    figures = quality.aggregates(long)
    assert (figures["posts"], figures["answers"], figures["asking"]) == (250, 250, 1.0)
    assert figures["answer_length"] == (400, 524, 649) and figures["answer_histogram"]["400"] == 50
    assert sum(figures["answer_histogram"].values()) == sum(figures["post_histogram"].values()) == 250
    assert not set(json.dumps(figures, ensure_ascii=False)) & set(letters)
    more = quality.aggregates([*long, *(sample(i, 5000) for i in range(250, 300))])
    assert more["distinct_4"] == pytest.approx(figures["distinct_4"], abs=0.01)  # longer answers change nothing
    few = quality.aggregates(long[:199])
    assert few["distinct_4"] is None and few["self_bleu"] is None
    table = quality.beside({"a": figures, "b": few})
    assert "—" in quality.markdown(table) and list(table.columns) == ["a", "b"]
    with pytest.raises(CbtError, match="no answer"):
        quality.aggregates([formats.Sample("1", 1, "雨"), formats.Sample("2", 2, "风", "Error code: 429 - busy")])
    with pytest.raises(CbtError, match="no answer"):
        quality.aggregates([formats.Sample("1", 1, "下雨"), formats.Sample("2", 2, "风", "Error", outcome="failed")])


def test_quality_sets_another_set_beside_and_prints_its_aggregates(tmp_path):
    corpus.dump([made(i) for i in range(3)], tmp_path / "a.jsonl")
    (tmp_path / "b.csv").write_text("text,answer\n下雨了没带伞,先换双鞋好不好？\n", encoding="utf-8")
    command = ["corpus", "quality", str(tmp_path / "a.jsonl"), "--beside", str(tmp_path / "b.csv")]
    assert "| measure | these | b.csv |" in CliRunner().invoke(cli.app, command).stdout
    printed = CliRunner().invoke(cli.app, ["corpus", "aggregates", str(tmp_path / "b.csv")]).stdout
    assert json.loads(printed)["posts"] == 1 and "下雨" not in printed


@pytest.mark.parametrize("command", ["quality", "export"])
def test_a_file_in_another_form_is_sent_to_the_command_that_reads_it(tmp_path, command):
    (tmp_path / "b.csv").write_text("text,answer\n下雨了没带伞,先换双鞋好不好？\n", encoding="utf-8")
    error = CliRunner().invoke(cli.app, ["corpus", command, str(tmp_path / "b.csv")]).exception
    assert isinstance(error, CbtError) and "`cbt corpus aggregates` describes others" in str(error)
