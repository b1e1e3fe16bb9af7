"""The prose pages: what they say agrees with the files it comes from, and with arithmetic."""

import csv
import re
import tomllib

import pytest
import yaml

from cbtlib import ROOT

PAGES = sorted((ROOT / "book").glob("*.md"))
PROSE = [path for path in PAGES if path.stem not in ("data", "glossary", "teaching")]  # these have tests of their own


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.stem)
def test_a_page_opens_with_a_question(path):
    opening = path.read_text("utf-8").split("\n\n")[1]
    assert opening.startswith("*") and "?" in opening


def test_the_table_of_distortions_is_the_taxonomy():
    with (ROOT / "data/taxonomy.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            f"| {row['en']} {row['zh']} | {row['example']} | {row['counter_example']} |" for row in csv.DictReader(file)
        ]
    text = (ROOT / "book/cbt.md").read_text("utf-8")
    assert [line for line in text.splitlines() if line in rows] == rows


def test_the_worked_example_of_false_alarms_adds_up():
    text = (ROOT / "book/safety.md").read_text("utf-8")
    cells = {row[1].strip(): re.findall(r"\d+", row[2]) for row in re.finditer(r"^\| ([^|]+)\|(.+)$", text, flags=re.M)}
    for forum in (0, 1):
        held, found, none, false, alarms = (
            int(next(values for name, values in cells.items() if name.startswith(start))[forum])
            for start in (
                "posts that hold a",
                "of these, found",
                "posts that hold none",
                "of these, false",
                "all alarms",
            )
        )
        assert held + none == 100 and found == round(held * 0.9) and false == round(none * 0.2)
        assert alarms == found + false
        said = [int(value) for value in next(v for name, v in cells.items() if name.startswith("**false among"))]
        assert said[3 * forum : 3 * forum + 3] == [false, alarms, round(100 * false / alarms)]


def test_every_term_that_is_linked_stands_in_the_glossary():
    """The strict build says so too, minutes later."""
    lines = (ROOT / "book/glossary.md").read_text("utf-8").splitlines()
    known = {line for line in lines if line and not line.startswith((" ", ":", "#", "*"))}
    for path in [*PAGES, *(ROOT / "notebooks").glob("*.py")]:
        text = re.sub(r"\n(# )?", " ", path.read_text("utf-8"))
        linked = {one or two for one, two in re.findall(r"\{term\}`(?:[^`<]*<([^>`]+)>|([^`<]+))`", text)}
        assert linked <= known, path.name


def test_every_work_that_is_cited_is_in_the_bibliography_and_the_other_way_round():
    keys = re.findall(r"^@\w+\{(\w+),", (ROOT / "book/references.bib").read_text("utf-8"), flags=re.M)
    texts = [path.read_text("utf-8") for path in [*PAGES, *(ROOT / "notebooks").glob("*.py")]]
    cited = [found for text in texts for found in re.findall(r"\{cite(?::\w)?\}`([^`]+)`", text)]
    assert sorted(keys) == sorted(set(",".join(cited).split(",")))


def test_every_table_of_profiles_names_the_profiles_that_exist():
    profiles = {path.stem for path in (ROOT / "notebooks/profiles").glob("*.yml")}
    for path in (ROOT / "README.md", ROOT / "book/reading.md"):
        assert set(re.findall(r"^\| `(\w+)`", path.read_text("utf-8"), flags=re.M)) == profiles, path.name


def test_results_reach_the_prose_through_glue_only():
    """A decimal or a percentage typed into a prose page is a result from somewhere else; these few are none."""
    said = {
        "paper": {"54.4%"},
        "reading": {"95%", "3.11", "3.14", "0.5"},
        "safety": {"10%", "67%"},
        "reproducing": set(),
    }
    for path in PROSE:
        text = re.sub(r"\{[\w:]+\}`[^`]*`|```.*?```|`[^`]*`|\]\([^)]*\)", "", path.read_text("utf-8"), flags=re.S)
        typed = set(re.findall(r"\b\d+(?:\.\d+)?%|\b\d+\.\d+\b", text))
        assert typed <= said.get(path.stem, set()), path.name


def test_a_percentage_is_written_one_way():
    """`95%`, as Python's own format writes it, in all that a page, a chart or the command line shows."""
    sources = [*ROOT.glob("*.md"), *PAGES, ROOT / "book/_static/widgets.js"]
    sources += [*(ROOT / "notebooks").glob("*.py"), *(ROOT / "cbtlib").rglob("*.py")]
    texts = {path: path.read_text("utf-8") for path in sources}
    assert not [path for path, text in texts.items() if re.search(r"[\d}`]\s%(?!%)", text)]


def test_the_citation_file_follows_its_schema_and_prefers_the_paper():
    """What CFF 1.2.0 asks for; https://github.com/citation-file-format names the keys."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cff) and cff["cff-version"] == "1.2.0"
    known = {
        "abstract",
        "authors",
        "cff-version",
        "date-released",
        "doi",
        "identifiers",
        "keywords",
        "license",
        "message",
    }
    assert set(cff) <= known | {"preferred-citation", "repository-code", "title", "type", "url", "version"}
    assert cff["type"] in ("software", "dataset")
    for work in (cff, cff["preferred-citation"]):
        for author in work["authors"]:
            assert set(author) == {"name"} or {"family-names", "given-names"} <= set(author)
    for identifier in cff["preferred-citation"]["identifiers"]:
        assert identifier["type"] in ("doi", "url", "swh", "other") and identifier["value"]
    paper = cff["preferred-citation"]
    assert paper["type"] == "conference-paper" and paper["title"].startswith("CBT-LLM") and paper["year"] == 2024
    assert paper["authors"][0]["family-names"] == "Na" and "2403.16008" in str(paper["identifiers"])


def test_one_version_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == version
    first = re.search(r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.M)
    assert first and first[1] == version
