"""The data card, its Croissant file and its checksums say what the corpus is now."""

import json
import shutil
import subprocess

import pytest

from cbtlib import ROOT, CbtError, corpus, datacard

DATA = ROOT / "data"
MENDED_BY = "run: cbt corpus card"


def test_the_card_holds_the_statistics_of_the_corpus_as_it_is():
    assert (DATA / "README.md").read_text(encoding="utf-8") == datacard.with_statistics(DATA / "README.md"), MENDED_BY


def test_the_checksums_are_those_of_the_files():
    assert (DATA / "checksums.sha256").read_text(encoding="utf-8") == datacard.checksums(DATA), MENDED_BY


def test_croissant_is_valid_and_its_records_are_those_of_the_corpus():
    import mlcroissant as mlc

    written = json.loads((DATA / "croissant.json").read_text(encoding="utf-8"))
    assert written == datacard.croissant(DATA), MENDED_BY
    dataset = mlc.Dataset(jsonld=str(DATA / "croissant.json"))
    rows = list(dataset.records("test"))
    records = corpus.load_split("test")
    assert [row["test/question"].decode() for row in rows] == [record.question for record in records]


def test_only_what_stands_between_the_marks_changes(tmp_path):
    shutil.copytree(DATA / "corpus", tmp_path / "corpus")
    card = tmp_path / "README.md"
    card.write_text(f"before\n{datacard.MARKS[0]}\nold\n{datacard.MARKS[1]}\nafter\n", encoding="utf-8")
    text = datacard.with_statistics(card)
    assert text.startswith(f"before\n{datacard.MARKS[0]}\n\n| measure") and text.endswith(
        f"{datacard.MARKS[1]}\nafter\n"
    )
    assert "old" not in text
    card.write_text("no marks", encoding="utf-8")
    with pytest.raises(CbtError, match="no place for the statistics"):
        datacard.with_statistics(card)


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum on this system")
def test_sha256sum_reads_the_checksums():
    done = subprocess.run(
        ["sha256sum", "-c", "checksums.sha256"], cwd=DATA, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
