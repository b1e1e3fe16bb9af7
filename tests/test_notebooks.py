"""The page contract, read from the sources; and the graph, run with the smoke profile in a copy."""

import json
import os
import re

import jupytext
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from cbtlib import ROOT, cache, naming, prompts, report, run, student

CHAPTERS = [page for page in run.PAGES if page[0].isdigit()]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))


def cells(page: str) -> list:
    return jupytext.read(ROOT / "notebooks" / f"{page}.py").cells


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def test_every_source_is_a_page_of_the_graph_and_of_the_book():
    assert [path.stem for path in SOURCES] == sorted(run.PAGES)
    toc = (ROOT / "_toc.yml").read_text("utf-8")
    assert all(f"book/executed/{page}" in toc for page in run.PAGES)


@pytest.mark.parametrize("page", run.PAGES)
def test_a_page_opens_as_the_contract_says(page):
    found = cells(page)
    opening = found[0].source
    assert found[0].cell_type == "markdown" and opening.startswith("# ")
    assert "?" in opening, "a page opens with a question that a person would ask"
    assert "**You will learn**" in opening
    assert found[1].cell_type == "markdown" and tags(found[1]) == {"banner"}
    code = [cell for cell in found if cell.cell_type == "code"]
    assert code[0].source.startswith(("import", "from")) and tags(code[0]) == {"imports"}, "imports come first, folded"
    assert [index for index, cell in enumerate(code) if "parameters" in tags(cell)] == [1]


@pytest.mark.parametrize("page", run.PAGES)
def test_parameters_are_typed_and_commented(page):
    lines = next(cell for cell in cells(page) if "parameters" in tags(cell)).source.splitlines()
    assert lines[0].startswith('profile: str = "embedded"') and lines[1].startswith('results: str = "results"')
    for line in lines:
        assert re.fullmatch(r"\w+: [\w\[\], |.]+ = .+  # .+", line), line


@pytest.mark.parametrize("page", run.PAGES)
def test_prose_comes_before_each_code_cell_and_cells_are_short(page):
    found = cells(page)
    for cell in found:
        assert cell.cell_type == "markdown" or len(cell.source.splitlines()) <= 25, cell.source[:200]
    start = next(index for index, cell in enumerate(found) if "parameters" in tags(cell))
    for before, cell in zip(found[start:], found[start + 1 :], strict=False):
        if cell.cell_type == "code" and not tags(cell) & {"solution", "check"}:  # their order: `student.read`
            assert before.cell_type == "markdown" or start == found.index(before), cell.source[:200]


@pytest.mark.parametrize("page", run.PAGES)
def test_a_page_is_read_in_25_minutes_and_its_contents_at_a_glance(page):
    """200 words of prose a minute, exercises among them, and three seconds for a line of code that is not folded."""
    words = lines = 0
    for cell in cells(page):
        if cell.cell_type == "markdown":
            words += len(re.findall(r"[\w’'-]+", re.sub(r"```.*?```|\{[\w:]+\}`", "", cell.source, flags=re.S)))
        elif cell.cell_type == "code" and not tags(cell) & {"imports", "parameters", "hide-input", "solution", "check"}:
            folded = "figures.show(" in cell.source
            lines += 0 if folded else sum(bool(line.strip()) for line in cell.source.splitlines())
    assert words / 200 + lines / 20 <= 25, f"{words} words, {lines} lines"
    sections = [line for cell in cells(page) if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    assert sum(line.startswith("## ") for line in sections) <= 12


@pytest.mark.parametrize("page", run.PAGES)
def test_a_page_ends_with_what_we_know_and_where_to_go(page):
    text = "\n".join(cell.source for cell in cells(page) if cell.cell_type == "markdown")
    order = ["## Summary", "## Exercises", "## Next"] if page in CHAPTERS else ["## Summary", "## Next"]
    places = [text.find(f"\n{heading}") for heading in order]
    assert -1 not in places and places == sorted(places), dict(zip(order, places, strict=True))


@pytest.mark.parametrize("page", CHAPTERS)
def test_the_book_folds_solutions_away_and_hides_the_wrong_answers(smoke_book, page):
    executed = json.loads((smoke_book.root / "results/smoke" / page / f"{page}.ipynb").read_text("utf-8"))
    whole = ["".join(cell["source"]) for cell in executed["cells"]]
    for one in student.read(page)[1]:
        assert one.parts.get("wrong", "no wrong answer") not in whole
        if one.has_code:
            assert any(one.parts["blank"] in text for text in whole), "a reader sees what to start from"
            cell = executed["cells"][whole.index(one.parts["solution"])]
            assert (
                "hide-cell" in cell["metadata"]["tags"] and "solution" in cell["metadata"]["mystnb"]["code_prompt_show"]
            )
    html = BeautifulSoup((smoke_book.html / f"book/executed/{page}.html").read_text("utf-8"), "html.parser")
    folded = [details for details in html.find_all("details") if "solution" in details.summary.get_text().lower()]
    assert len(folded) == len(student.read(page)[1]) and not any(details.has_attr("open") for details in folded)


@pytest.mark.parametrize("profile", ["smoke", "embedded", "gpu", "paper"])
def test_profiles_name_only_pages_and_parameters_that_exist(profile):
    for page in run.PAGES:
        source = next(cell for cell in cells(page) if "parameters" in tags(cell)).source
        for name in run.profile_parameters(profile, page):
            assert re.search(rf"^{name}:", source, flags=re.M), f"{profile}: {page} has no parameter {name}"


def test_seeds_were_measured_as_the_pages_run():
    kept = json.loads((ROOT / "data/seeds.json").read_text("utf-8"))
    for page, name, measured in (
        ("04_lora_training", "max_steps", "steps"),
        ("05_evaluation", "items", "posts"),
        ("05_evaluation", "samples", "replies"),
        ("05_evaluation", "temperature", "temperature"),
    ):
        source = next(cell for cell in cells(page) if "parameters" in tags(cell)).source
        default = re.search(rf"^{name}: \w+ = ([\d.]+)", source, flags=re.M)[1]
        value = run.profile_parameters("embedded", page).get(name, float(default))
        assert kept[measured] == value, f"{page} has another {name}: python benchmarks/tuning.py --seeds"


@pytest.mark.parametrize("page", run.PAGES)
def test_every_page_runs_and_writes_its_numbers(smoke_book, page):
    folder = smoke_book.root / "results/smoke" / page
    content = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert content["page"] == page and content["profile"] == "smoke" and content["numbers"]
    assert set().union(*content["outcomes"].values()) <= set(report.OUTCOMES)
    facts = json.loads((folder / "run.json").read_text("utf-8"))
    assert facts["seconds"] > 0 and facts["peak_memory_gb"] > 0
    for picture in folder.glob("*.png"):
        assert picture.with_suffix(".svg").exists() and picture.with_suffix(".csv").exists()


# What a reader is promised of a chapter, by the name of its product.
PROMISED = {
    "01_prompt_design": ["coverage.csv", "outcomes.csv", "parts.svg", "structure_accuracy.csv"],
    "02_generation": ["cost_time.svg", "flow.svg", "gates.svg", "outcomes.csv", "triage.csv"],
    "03_distortion_statistics": [
        *("combinations.svg", "confusion.svg", "cooccurrence.svg", "headline.csv", "lengths.svg", "order.svg"),
        *("corrected.csv", "coverage.svg", "detector.csv", "taxonomy.csv", "topics.svg"),
    ],
    "04_lora_training": ["before_after.csv", "curves.svg", "sweeps.svg"],
    "05_evaluation": [
        "backbones.csv",
        "forest.svg",
        "layers.svg",
        "scores.csv",
        "signatures.csv",
        "tokenisers.csv",
        "worked_pairs.csv",
    ],
    "06_human_evaluation": ["agreement.csv", "anchors.csv", "bias.csv", "forms/key.json", "means.csv", "power.csv"],
}


@pytest.mark.parametrize("page", PROMISED)
def test_a_chapter_that_runs_leaves_what_it_promises(smoke_book, page):
    folder = smoke_book.root / "results/smoke" / page
    assert not [name for name in PROMISED[page] if not (folder / name).is_file()]


def test_letters_of_several_checkpoints_stand_beside_those_of_the_base(smoke_book):
    table = pd.read_csv(smoke_book.root / "results/smoke/04_lora_training/before_after.csv")
    assert table["step"].iloc[0] == 0 and len(table) >= 3


def test_what_is_no_reply_is_in_no_score(smoke_book):
    folder = smoke_book.root / "results/smoke/05_evaluation"
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text("utf-8").splitlines()]
    scored = pd.read_csv(folder / "scores.csv", index_col=0)["n"].fillna(0)
    for system in {row["system"] for row in rows}:
        ok = sum(row["outcome"] == "ok" for row in rows if row["system"] == system)
        assert scored.get(system, 0) == ok, system
    assert {row["outcome"] for row in rows} > {"ok"}, "the random model ends some replies in another way"


@pytest.mark.parametrize("page", run.PAGES)
def test_no_product_of_a_page_takes_the_place_of_another(page):
    code = "\n".join(cell.source for cell in cells(page) if cell.cell_type == "code")
    names = re.findall(r'(?:page\.table\(|figures\.show\(\s*[\w.]+,\s*page,)\s*"(\w+)"', code)
    assert len(names) == len(set(names)) and (names or "page.table(" not in code), (
        "a figure has a table of its name too"
    )


@pytest.mark.parametrize("page", run.PAGES)
def test_a_page_that_runs_shows_plain_names_in_its_tables(smoke_book, page):
    """Prompts and pages are called what a reader types, and an index of `naming.VERBATIM` holds such names too."""
    known = {*prompts.names(), *run.PAGES}
    executed = json.loads((smoke_book.root / "results/smoke" / page / f"{page}.ipynb").read_text("utf-8"))
    for output in (output for cell in executed["cells"] for output in cell.get("outputs", [])):
        table = BeautifulSoup("".join(output.get("data", {}).get("text/html", "")), "html.parser")
        columns, rows = table.select("table.dataframe thead th"), table.select("table.dataframe tbody th")
        verbatim = bool(columns) and columns[0].get_text() in naming.VERBATIM
        labels = {label.get_text().strip() for label in (columns if verbatim else columns + rows)} - known
        assert not [label for label in labels if re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", label)]
        assert not labels & set(naming.METRICS)


@pytest.mark.parametrize("page", run.PAGES)
def test_every_file_that_a_page_opens_reruns_it(smoke_book, page):
    """A file that is not among a page's inputs could change, and `cbt book` would keep the page."""
    opened = {path for path in smoke_book.opened(page) if path.parts[0] in ("cbtlib", "data", "notebooks")}
    assert opened and not opened - {path.relative_to(ROOT) for path in run.inputs(page)}


def test_the_manifest_says_what_ran_on_what(smoke_book):
    manifest = json.loads((smoke_book.root / "results/smoke/manifest.json").read_text("utf-8"))
    assert set(manifest["pages"]) == set(run.PAGES)
    assert manifest["lock_sha256"] == cache.sha256(smoke_book.root / "requirements.lock")
    assert "data/corpus/test.jsonl" in manifest["data_sha256"]
    assert manifest["hardware"]["cores"] and manifest["versions"]["torch"]


def test_a_second_run_does_nothing_even_after_touching_files(smoke_book):
    pages = {page: smoke_book.root / "results/smoke" / page / "run.json" for page in run.PAGES}
    before = {page: path.stat().st_mtime_ns for page, path in pages.items()}
    for path in [*(smoke_book.root / "notebooks").glob("*.py"), *(smoke_book.root / "cbtlib").glob("*.py")]:
        os.utime(path)
    assert smoke_book.cbt("book", "--profile", "smoke").returncode == 0
    assert {page: path.stat().st_mtime_ns for page, path in pages.items()} == before


def test_what_changed_reruns_with_its_dependants_only_and_a_failure_goes_on_where_it_stopped(smoke_book):
    """Changed: a chapter, a parameter of a page in the profile, and one that `cbt run -p` has set by hand."""
    pages = {page: smoke_book.root / "results/smoke" / page / "run.json" for page in run.PAGES}

    def times() -> dict[str, int]:
        return {page: path.stat().st_mtime_ns if path.exists() else 0 for page, path in pages.items()}

    facts = json.loads(pages["recipe_inspect"].read_text("utf-8"))
    facts["parameters"]["resamples"] = 7
    pages["recipe_inspect"].write_text(json.dumps(facts), "utf-8")
    profile = smoke_book.root / "notebooks/profiles/smoke.yml"
    profile.write_text(
        profile.read_text("utf-8").replace("recipe_compare: {resamples: 100}", "recipe_compare: {resamples: 101}")
    )
    source = smoke_book.root / "notebooks/06_human_evaluation.py"
    good, before = source.read_text("utf-8"), times()
    source.write_text(f"{good}\n# %%\n1 / 0\n", "utf-8")
    done = smoke_book.cbt("book", "--profile", "smoke")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stdout + done.stderr
    assert "recipe_inspect was run with {'resamples': 7}" in done.stdout
    source.write_text(f"{good}\n# another closing word\n", "utf-8")
    halfway = times()
    done = smoke_book.cbt("book", "--profile", "smoke")
    assert done.returncode == 0, done.stderr[-3000:]
    after = times()
    changed = {"06_human_evaluation", "recipe_inspect", "recipe_compare"}
    assert {page for page in pages if after[page] != before[page]} == changed | {"claims"}
    kept = {page for page in changed if halfway[page] not in (0, before[page])}
    assert all(after[page] == halfway[page] for page in kept), "what was done before the failure is not done again"
    assert json.loads(pages["recipe_inspect"].read_text("utf-8"))["parameters"]["resamples"] == 100
    claims = json.loads((smoke_book.root / "results/smoke/claims/claims.ipynb").read_text("utf-8"))
    glued = [output for cell in claims["cells"] for output in cell.get("outputs", []) if output.get("metadata")]
    (minutes,) = (x["data"] for x in glued if x["metadata"].get("scrapbook", {}).get("name") == "minutes")
    cited = BeautifulSoup((smoke_book.html / "book/index.html").read_text("utf-8"), "html.parser").get_text()
    assert f"recipes in {float(*minutes.values()):.1f} minutes" in " ".join(cited.split()), "prose cites this run"


def test_a_missing_product_stops_a_page_with_one_sentence(smoke_book):
    done = smoke_book.cbt("run", "notebooks/06_human_evaluation.py", "--profile", "smoke", "--results", "results/none")
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("cbt: 06_human_evaluation: this page needs answers.jsonl of page 05_evaluation")
    assert "cbt run notebooks/05_evaluation.py --profile smoke" in message
