"""BLEURT runs elsewhere, gives one score for each pair, and is no number when it does not."""

import json
import sys

import pytest
from typer.testing import CliRunner

from cbtlib import CbtError, bleurt, metrics
from cbtlib.cli import app
from cbtlib.surface import Texts


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A Python that has a `bleurt` package whose score is the share of the reference's characters that are there."""
    package = tmp_path / "site/bleurt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    info = tmp_path / "site/BLEURT-0.0.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: BLEURT\nVersion: 0.0.9\n")
    (package / "score.py").write_text(
        "import os, sys\n"
        "class BleurtScorer:\n"
        "    def __init__(self, checkpoint):\n"
        "        print('a library that talks')\n"
        "        model = os.path.join(checkpoint, 'saved_model.pb')\n"
        "        assert os.path.exists(model), 'no saved model in the checkpoint'\n"
        "    def score(self, references, candidates, batch_size):\n"
        "        open(os.environ['SEEN'], 'a').write(str(len(candidates)) + ' ')\n"
        "        given = [len(set(r) & set(c)) / len(set(r)) for r, c in zip(references, candidates, strict=True)]\n"
        "        return {'short': given[1:], 'nan': [float('nan')] * len(given)}.get(os.environ.get('BREAK'), given)\n"
    )
    checkpoint = tmp_path / "BLEURT-tiny"
    checkpoint.mkdir()
    (checkpoint / "saved_model.pb").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    return checkpoint


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", dict(metrics.METRICS))


def test_each_distinct_pair_is_scored_once_and_the_best_reference_counts(elsewhere, tmp_path):
    texts = Texts(["我累", "我累", " ", "好的"], [["我很累", "我很累", "好", "坏的"], [None, None, None, "好的"]])
    assert bleurt.bleurt(texts, elsewhere, sys.executable).items == pytest.approx([2 / 3, 2 / 3, 0, 1])
    assert (tmp_path / "seen").read_text().split() == ["3"]


@pytest.mark.parametrize(("how", "message"), [("short", "0 scores for 1 pairs"), ("nan", "or one that is no number")])
def test_scores_that_are_none_are_refused(elsewhere, monkeypatch, how, message):
    monkeypatch.setenv("BREAK", how)
    with pytest.raises(CbtError, match=message):
        bleurt.bleurt(Texts(["好"], [["好"]]), elsewhere, sys.executable)


def test_blank_hypotheses_score_zero_and_start_no_other_python(elsewhere, tmp_path, registry):
    metrics.METRICS["bleurt"] = bleurt.metric(elsewhere, tmp_path / "no python is here")
    (score,) = metrics.score(["", "\u3000\n"], [["好", "好"]], metrics=["bleurt"])
    assert score.value == 0 and "|bleurt:not-asked|" in score.signature and "|empties:2|" in score.signature


def test_what_is_missing_is_named(elsewhere, tmp_path, monkeypatch):
    with pytest.raises(CbtError, match="no BLEURT checkpoint"):
        bleurt.metric(tmp_path / "nowhere", sys.executable)
    (elsewhere / "saved_model.pb").unlink()
    with pytest.raises(CbtError, match="no saved model in the checkpoint"):
        bleurt.bleurt(Texts(["好"], [["好"]]), elsewhere, sys.executable)
    with pytest.raises(CbtError, match="cannot start"):
        bleurt.bleurt(Texts(["好"], [["好"]]), elsewhere, tmp_path / "python")
    monkeypatch.delenv("PYTHONPATH")
    with pytest.raises(CbtError, match="No module named 'bleurt'"):
        bleurt.bleurt(Texts(["好"], [["好"]]), elsewhere, sys.executable)


def test_the_command_says_that_it_was_not_run_or_prints_it_with_its_checkpoint(elsewhere, tmp_path, registry):
    (tmp_path / "hyp.txt").write_text("我累\n好的\n", "utf-8")
    (tmp_path / "ref.txt").write_text("我很累\n好的\n", "utf-8")
    words = ["score", "--hyp", f"{tmp_path}/hyp.txt", "--ref", f"{tmp_path}/ref.txt", "--resamples", "50"]
    words += ["--json", f"{tmp_path}/out.json"]
    without = CliRunner().invoke(app, words)
    assert without.exit_code == 0 and "bleurt not run: needs a CHECKPOINT" in without.output
    found = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert "CHECKPOINT" in found["not_run"]["bleurt"] and "bleurt" not in str(found["scores"])
    given = CliRunner().invoke(app, [*words, "--bleurt", str(elsewhere), "--bleurt-python", sys.executable])
    assert given.exit_code == 0, given.output
    found = json.loads((tmp_path / "out.json").read_text("utf-8"))
    (rows,) = found["scores"].values()
    (row,) = [row for row in rows if row["name"] == "bleurt"]
    assert row["value"] == pytest.approx(5 / 6) and "bleurt|checkpoint:BLEURT-tiny|" in row["signature"]
    assert "|bleurt:0.0.9|tensorflow:unknown|" in row["signature"]
    assert "bleurt" not in found["not_run"]
