"""Exercises: right answers pass, blanks and plausible mistakes fail with a sentence, no student gets a solution."""

import subprocess
import sys
from functools import cache

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from cbtlib import ROOT, CbtError, student

EXERCISES = [one for page in student.CHAPTERS for one in student.read(page)[1]]
WITH_CODE = [pytest.param(one, id=f"{one.page}-{one.number}") for one in EXERCISES if one.has_code]


@cache
def setup(page: str) -> dict:
    """What the set-up cell of a chapter defines."""
    names: dict = {}
    exec(student.read(page)[0], names)
    return names


def attempt(one: student.Exercise, answer: str) -> None:
    """Run an answer as a student would, then the check; an answer that does not even run is not what is tested."""
    names = dict(setup(one.page))
    exec(compile(one.parts[answer], f"{one.page}, exercise {one.number}, {answer}", "exec"), names)
    exec(compile(one.parts["check"], f"{one.page}, exercise {one.number}, check", "exec"), names)


@pytest.mark.parametrize("one", WITH_CODE)
def test_the_solution_passes_the_check(one):
    attempt(one, "solution")


@pytest.mark.parametrize("answer", ["blank", "wrong"])
@pytest.mark.parametrize("one", WITH_CODE)
def test_a_blank_and_a_plausible_mistake_fail_with_a_sentence(one, answer):
    with pytest.raises(AssertionError) as failure:
        attempt(one, answer)
    assert len(str(failure.value).splitlines()[0].split()) >= 3, "the message says what is wrong"


@pytest.mark.parametrize("page", student.CHAPTERS)
def test_a_chapter_has_exercises_from_reading_to_research(page):
    exercises = student.read(page)[1]
    assert len(exercises) >= 4 and {one.level for one in exercises} == set(student.LEVELS)
    assert sum(one.has_code for one in exercises) >= 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    student.make(folder)
    return folder


@pytest.mark.parametrize("page", student.CHAPTERS)
def test_a_student_gets_questions_blanks_and_checks_and_no_answer(made, page):
    notebook = nbformat.read(made / f"{page}.ipynb", as_version=4)
    nbformat.validate(notebook)
    sources = [cell.source for cell in notebook.cells]
    exercises = student.read(page)[1]
    assert [source for source in sources if source.startswith("### Exercise")] == [one.question for one in exercises]
    whole = "\n".join(sources)
    for one in exercises:
        assert one.parts["solution"] not in whole and one.parts.get("wrong", "no wrong answer") not in whole
        if one.has_code:
            at = sources.index(one.parts["blank"])
            assert sources[at + 1].startswith(one.parts["check"])
    assert [cell.source for cell in jupytext.read(made / f"{page}.py").cells] == sources


@pytest.mark.parametrize("page", student.CHAPTERS)
def test_a_student_notebook_runs_alone_and_only_its_checks_fail(made, page):
    notebook = nbformat.read(made / f"{page}.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=120, allow_errors=True, resources={"metadata": {"path": str(made)}})
    client.execute()
    checks = {one.parts["check"] + '\nprint("right")' for one in student.read(page)[1] if one.has_code}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            errors = [output.ename for output in cell.outputs if output.output_type == "error"]
            assert errors == (["AssertionError"] if cell.source in checks else []), cell.source[:300]


def test_a_malformed_exercise_is_refused_with_its_place(tmp_path, monkeypatch):
    page = student.CHAPTERS[0]
    text = (ROOT / "notebooks" / f"{page}.py").read_text("utf-8")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(student, "ROOT", tmp_path)
    for broken, message in (
        (text.replace('tags=["check"]', 'tags=["chek"]', 1), "has no place"),
        (text.replace('tags=["wrong"]', 'tags=["blank"]', 1), "has no place"),
        (text.replace("### Exercise 2 (", "### Exercise 3 (", 1), "should be Exercise 2"),
        (text.replace("### Exercise 2 (compute", "### Exercise 2 (hard", 1), "one of read, compute, break, research"),
        (text.replace('tags=["setup"]', "", 1), "a code cell tagged setup"),
    ):
        assert broken != text
        (tmp_path / "notebooks" / f"{page}.py").write_text(broken, "utf-8")
        with pytest.raises(CbtError, match=message):
            student.read(page)


def test_make_student_writes_both_forms(tmp_path):
    command = [sys.executable, "-m", "cbtlib", "student", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{page}.{ending}" for page in student.CHAPTERS for ending in ("ipynb", "py")
    }
