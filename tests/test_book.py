"""The built book as a reader's browser meets it: pages, links, pictures, languages, nothing from outside."""

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

from cbtlib import ROOT, corpus

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]


@pytest.fixture(scope="module")
def pages(smoke_book) -> dict[Path, BeautifulSoup]:
    files = sorted(smoke_book.html.glob("book/**/*.html"))
    return {path: BeautifulSoup(path.read_text("utf-8"), "html.parser") for path in files}


def test_every_page_of_the_contents_is_there_and_no_other(smoke_book, pages):
    assert {path.relative_to(smoke_book.html).with_suffix("").as_posix() for path in pages} == set(PAGES)


def test_no_link_or_anchor_is_broken(smoke_book, pages):
    broken = []
    for path, soup in pages.items():
        for link in soup.find_all("a", href=True):
            parts = urlsplit(link["href"])
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                broken.append(f"{path.name} -> {link['href']}")
            elif parts.fragment and target in pages:
                anchor = unquote(parts.fragment)
                if not pages[target].find(id=anchor) and not pages[target].find(attrs={"name": anchor}):
                    broken.append(f"{path.name} -> {link['href']}")
    assert not broken


def test_every_picture_says_what_it_shows(pages):
    for path, soup in pages.items():
        for image in soup.find_all("img"):
            alt = image.get("alt", "")
            assert len(alt) > 20 and not alt.endswith(".png"), f"{path.name}: {image.get('src')} has alt {alt!r}"


def test_every_chapter_shows_a_computed_figure_with_a_caption(smoke_book):
    for page in (page for page in PAGES if re.search(r"executed/\d", page)):
        soup = BeautifulSoup((smoke_book.html / f"{page}.html").read_text("utf-8"), "html.parser")
        captions = [figure.find("figcaption") for figure in soup.find_all("figure")]
        assert captions and all(caption and caption.get_text(strip=True) for caption in captions), page


def test_what_a_page_teaches_stands_in_a_box(smoke_book):
    for page in (page for page in PAGES if "executed/" in page):
        soup = BeautifulSoup((smoke_book.html / f"{page}.html").read_text("utf-8"), "html.parser")
        (box,) = soup.select("article h1 ~ .goals")
        assert box.p.get_text() == "You will learn" and len(box.select("li")) >= 3, page


def test_nothing_is_loaded_from_outside(smoke_book, pages):
    wanted = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
    for path, soup in pages.items():
        loads = [tag[key] for name, key in wanted.items() for tag in soup.find_all(name) if tag.get(key)]
        loads += [tag["href"] for tag in soup.find_all("link", href=True) if tag.get("rel") != ["canonical"]]
        outside = [load for load in loads if urlsplit(load).netloc]
        assert not outside, f"{path.name} loads {outside}"
    for sheet in smoke_book.html.glob("_static/**/*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text("utf-8", errors="replace")), sheet.name


def test_languages_are_marked(pages):
    for path, soup in pages.items():
        assert soup.html["lang"] == "en", path.name
        article = soup.find("article") or soup
        for text in article.find_all(string=re.compile(r"[\u4e00-\u9fff]")):
            quiet = text.find_parent(["pre", "script", "style", "svg", "title"])
            assert quiet or text.find_parent(lang="zh"), f"{path.name}: {text[:40]!r} is not marked as Chinese"


def test_the_font_holds_every_chinese_glyph_of_the_pages(smoke_book, pages):
    from fontTools.ttLib import TTFont

    font = TTFont(smoke_book.html / "_static/chinese.woff").getBestCmap()
    used = {char for soup in pages.values() for char in soup.get_text() if "\u4e00" <= char <= "\u9fff"}
    assert used and not {char for char in used if ord(char) not in font}


def test_search_knows_chinese_and_english(smoke_book):
    index = (smoke_book.html / "searchindex.js").read_text("utf-8")
    terms = json.loads(index.removeprefix("Search.setIndex(").removesuffix(")"))["terms"]
    assert "认知" in terms and "扭曲" in terms and any(term.startswith("distort") for term in terms)
    # What cuts a Chinese query by the words of that index; the browser test asks it for every name.
    assert "globalThis.splitQuery" in (smoke_book.html / "_static/search_zh.js").read_text("utf-8")
    assert "_static/search_zh.js" in (smoke_book.html / "search.html").read_text("utf-8")


def test_glued_numbers_arrived(pages):
    for path, soup in pages.items():
        assert "{glue" not in soup.get_text(), path.name


def test_no_page_shows_a_crisis_text(pages):
    shown = "".join(soup.get_text() for soup in pages.values())
    path = ROOT / "data/corpus/crisis.jsonl"
    posts = [record.description for record in corpus.load(path)]
    assert posts
    runs = {post[start : start + 12] for post in posts for start in range(len(post) - 11)}
    assert not [run for run in runs if run in shown]


def test_model_text_cannot_become_markup():
    from cbtlib import figures

    shown = figures.chinese("<script>alert(1)</script>\n**粗** \u202e", gloss="<b>").data
    assert "<script>" not in shown and "<b>" not in shown and 'lang="zh"' in shown.replace("'", '"')


def test_a_hostile_record_is_text_on_every_display_path(tmp_path):
    from hostile import LONG, site

    page = site(tmp_path / "site") / "index.html"
    article = BeautifulSoup(page.read_text("utf-8"), "html.parser").find("article").find("section")
    assert not article.find_all("script") and len(article.find_all("iframe")) == 1 and len(article.find_all("img")) == 1
    assert not [tag for tag in article.find_all(True) if any(name.startswith("on") for name in tag.attrs)]
    assert not [link for link in article.find_all("a", href=True) if "evil" in link["href"] or "java" in link["href"]]
    text = article.get_text()
    assert "<script>globalThis.hacked" in text and LONG in text and "[U+202E]" in text


def test_a_page_carries_no_dead_weight(smoke_book, pages):
    for path, soup in pages.items():
        scripts = " ".join(tag.get("src", "") for tag in soup.find_all("script"))
        assert "fontawesome" not in scripts and "thebe" not in scripts and "searchindex" not in scripts, path.name
    assert "searchindex" in (smoke_book.html / "search.html").read_text("utf-8")
