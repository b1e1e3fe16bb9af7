"""Slides: every chapter that ran has a deck, which opens from a folder and asks nothing of the network."""

import json
import re
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from fontTools.ttLib import TTFont

from cbtlib import CbtError, slides, student


@pytest.fixture(scope="module")
def decks(smoke_book):
    done = smoke_book.cbt("slides", "--profile", "smoke")
    assert done.returncode == 0, done.stderr
    folder = smoke_book.root / "slides"
    return {path.stem: BeautifulSoup(path.read_text("utf-8"), "html.parser") for path in folder.glob("*.html")}


def test_every_chapter_has_a_deck_with_its_sections_figures_and_exercises(smoke_book, decks):
    assert sorted(decks) == student.CHAPTERS
    for page, deck in decks.items():
        source = (smoke_book.root / "notebooks" / f"{page}.py").read_text("utf-8")
        headings = set(re.findall(r"^# ## (.+)$", source, flags=re.M)) - {"Set-up", "Next"}
        assert headings <= {heading.get_text().removesuffix("¶") for heading in deck.find_all("h2")}
        figures = {path.name for path in (smoke_book.root / "results/smoke" / page).glob("*.svg")}
        images = deck.find_all("img")
        assert len(images) == len(figures) and all(len(image["alt"]) > 20 for image in images)
        assert not [caption for caption in deck.find_all("figcaption") if "\\" in caption.get_text()]
        shown = deck.get_text()
        assert "{cite" not in shown and "Further reading" not in shown, "a deck has no page of sources"
        for one in student.read(page)[1]:
            assert one.title.replace("`", "") in shown and one.parts["solution"] not in shown


def test_a_chapter_that_is_still_running_has_no_deck_yet(tmp_path):
    page = tmp_path / "results/smoke/02_generation"
    page.mkdir(parents=True)
    (page / "metrics.json").write_text("{}")
    with pytest.raises(CbtError, match="no chapter has run"):
        slides.make("smoke", str(tmp_path / "results"), tmp_path / "slides")


def test_a_deck_ends_on_the_summary_and_the_answer_of_its_run(smoke_book, decks):
    answered = set()
    for page, deck in decks.items():
        cells = json.loads((smoke_book.root / "results/smoke" / page / f"{page}.ipynb").read_text("utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells]
        start, end = (
            next(place for place, source in enumerate(sources) if source.startswith(heading))
            for heading in ("## Summary", "## Exercises")
        )
        said = [output["data"] for cell in cells[start:end] for output in cell.get("outputs", [])]
        answers = ["".join(data["text/markdown"]) for data in said if "text/markdown" in data]
        expected = ["Exercises", "Summary", *(["What we now know"] if answers else [])]
        headings = [heading.get_text().removesuffix("¶") for heading in deck.select(".slides h2")]
        assert headings[-len(expected) :] == expected
        last = " ".join(deck.select(".slides > section")[-1].get_text().split())
        assert all(" ".join(re.sub("[*`]", "", answer).split()) in last for answer in answers)
        answered |= {page} if answers else set()
    assert {"01_prompt_design", "05_evaluation"} <= answered


def test_a_deck_loads_only_what_lies_beside_it(smoke_book, decks):
    folder = smoke_book.root / "slides"
    for page, deck in decks.items():
        wanted = [tag["src"] for tag in deck.find_all(["script", "img", "iframe"], src=True)]
        wanted += [tag["href"] for tag in deck.find_all("link", href=True)]
        files = [urlsplit(address) for address in wanted if not address.startswith("data:")]
        assert len(files) >= 4
        for file in files:
            assert not file.netloc and (folder / unquote(file.path)).is_file(), f"{page} loads {file.geturl()[:80]}"
    sheets = [*folder.rglob("*.css")]
    assert len(sheets) == 2
    for sheet in sheets:
        for address in re.findall(r"(?:url\(|@import )['\"]?([^'\")]+)", sheet.read_text("utf-8")):
            assert address.startswith("data:") or (sheet.parent / address).is_file(), f"{sheet.name} loads {address}"


def test_numbers_are_filled_in_and_chinese_has_glyphs(smoke_book, decks):
    font = TTFont(smoke_book.root / "slides/reveal.js/dist/theme/fonts/chinese.woff").getBestCmap()
    for page, deck in decks.items():
        text = deck.find(class_="slides").get_text()
        assert "{glue" not in text and "```" not in text and ":::" not in text, page
        assert not {char for char in text if "\u4e00" <= char <= "\u9fff" and ord(char) not in font}, page


def test_a_number_that_the_run_has_not_written_stops_the_deck(smoke_book, tmp_path):
    page = smoke_book.root / "results/smoke/06_human_evaluation"
    copy = tmp_path / page.name
    copy.mkdir()
    (copy / f"{page.name}.ipynb").write_bytes((page / f"{page.name}.ipynb").read_bytes())
    metrics = json.loads((page / "metrics.json").read_text("utf-8"))
    assert slides.deck(page)
    (copy / "metrics.json").write_text(json.dumps(metrics | {"numbers": {}}), "utf-8")
    with pytest.raises(CbtError, match="06_human_evaluation: the text cites the number"):
        slides.deck(copy)


def test_without_a_run_there_is_one_sentence(smoke_book):
    done = smoke_book.cbt("slides", "--profile", "paper")
    assert done.returncode == 1 and done.stderr.startswith("cbt: no chapter has run with the profile 'paper'")
