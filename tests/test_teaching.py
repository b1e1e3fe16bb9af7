"""The teaching kit and the glossary keep step with the chapters."""

import re
from itertools import pairwise

import pytest

from cbtlib import ROOT, corpus, distortions, student

TEACHING = (ROOT / "book/teaching.md").read_text("utf-8")
LESSONS = re.split(r"^## (?=Lesson \d)", TEACHING, flags=re.M)[1:]
TERM = re.compile(r"^(\S.*) \((.*[\u4e00-\u9fff].*|.+（.+）)\)$")


def test_there_are_three_lessons():
    assert [lesson[:8] for lesson in LESSONS] == ["Lesson 1", "Lesson 2", "Lesson 3"]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson[:8])
def test_a_lesson_has_ninety_minutes_without_a_gap(lesson):
    spans = [tuple(map(int, span)) for span in re.findall(r"^\| (\d+)–(\d+) \|", lesson, flags=re.M)]
    assert spans[0][0] == 0 and spans[-1][1] == 90
    assert all(before[1] == after[0] < after[1] for before, after in pairwise(spans))


def test_exercises_that_a_lesson_names_exist():
    there = {f"{int(page[:2])}.{one.number}" for page in student.CHAPTERS for one in student.read(page)[1]}
    lines = [line for lesson in LESSONS for line in lesson.splitlines() if "xercise" in line]
    named = {number for line in lines for number in re.findall(r"\b\d\.\d\b", line)}
    assert len(named) >= 12 and named <= there


def entries() -> list[tuple[str, str]]:
    """The terms of the glossary, in order: English and Chinese."""
    lines = (ROOT / "book/glossary.md").read_text("utf-8").splitlines()
    found = []
    for term, meaning in pairwise(lines):
        if meaning.startswith("  "):
            match = TERM.match(term)
            assert match, f"the term {term!r} has no Chinese"
            found.append((match[1], match[2]))
    return found


def test_the_glossary_is_sorted_and_says_nothing_twice():
    english = [term.lower() for term, _ in entries()]
    types = len(corpus.TYPES)
    assert english[:-types] == sorted(english[:-types]) and english[-types:] == sorted(english[-types:])
    assert len(set(english)) == len(english)


def test_the_glossary_has_the_five_parts_and_the_eleven_distortions():
    terms = dict(entries())
    for kind, name in distortions.names().items():
        assert terms[name] == distortions.names("zh")[kind]
    assert {part.replace("_", " ") for part in corpus.PARTS} <= set(terms)
