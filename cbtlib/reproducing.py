"""How far may my numbers lie from yours? One row for each figure and headline number, made from files.

    rows(profile)     claim, chapter, command, product, expected ± tolerance, this run, minutes, memory
    write(profile)    the same as a page of the book, and as results/<profile>/reproducing.csv

Notable choices
- Nothing is typed by hand. Expected values and tolerances are those of results/reference/<profile>.json; captions,
  minutes and memory are those of the run that the book was built from. Without a reference file the page says so.
- A headline number is one that a page's summary, a prose page or the claims table cites.
- A figure is as right as the numbers drawn in it: its row names the page's numbers that its CSV holds.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from cbtlib import ROOT, CbtError, duration, report, writing
from cbtlib.run import PAGES

README_MARKS = ("<!-- {}: written by `cbt claims --publish` -->", "<!-- end of {} -->")
"""Lines around what `renew_readme` writes; the name is that of the function that says it."""
DRAWN = 3
"""Numbers that the row of a figure names."""
_CITED = re.compile(r"\{glue:text\}`(?:executed/(?P<page>\w+)\.ipynb::)?(?P<name>\w+)")


def rows(profile: str, results: str = "results") -> pd.DataFrame:
    """One row for each figure and each headline number of a profile's run, in the order of the pages."""
    reference, run = published(profile), report.manifest(profile, results)["pages"]
    found, cited = report.numbers(profile, results), headlines()
    table = []
    for page in (page for page in PAGES if page in run):
        folder = ROOT / results / profile / page
        notebook = json.loads((folder / f"{page}.ipynb").read_text("utf-8"))
        mine = {key: entry for key, entry in found.items() if key.startswith(f"{page}::")}
        facts = {
            "chapter": title(notebook),
            "page": page,
            "command": f"cbt run notebooks/{page}.py --profile {profile}",
            "minutes": round(run[page]["seconds"] / 60, 2),
            "memory (GB)": run[page]["peak_memory_gb"],
        }
        for name, caption in figures(notebook, folder):
            drawn = _drawn(folder / f"{name}.csv", mine)
            row = {"kind": "figure", "claim": caption, "product": f"{page}/{name}.svg", **facts}
            table.append(row | _compare(drawn[:DRAWN], mine, reference, named=True))
        for key in (key for key in mine if key in cited):
            row = {"kind": "number", "claim": mine[key]["what"], "product": f"{page}/metrics.json", **facts}
            table.append(row | {"number": key.partition("::")[2]} | _compare([key], mine, reference))
    columns = ["kind", "claim", "number", "chapter", "page", "command", "product", "expected", "this run", "holds"]
    return pd.DataFrame(table, columns=[*columns, "minutes", "memory (GB)"])


def write(profile: str, results: str = "results") -> Path:
    """Write book/executed/reproducing.md, which the book includes, and reproducing.csv; returns the former's path."""
    table = rows(profile, results)
    writing.write_csv(ROOT / results / profile / "reproducing.csv", table, index=False)
    target = ROOT / "book/executed/reproducing.md"
    target.write_text(markdown(table, profile), encoding="utf-8", newline="\n")
    return target


def markdown(table: pd.DataFrame, profile: str) -> str:
    """The rows as Markdown: a section for each page, with its command, minutes and memory once."""
    place = f"results/reference/{profile}.json"
    if published(profile):
        held = table["holds"].value_counts()
        lines = [
            f"Expected values are those of `{place}`. Of the {len(table)} rows below, {held.get('yes', 0)} lie within "
            f"their tolerance in the run that made this copy, {held.get('no', 0)} do not."
        ]
    else:
        lines = [
            f"**No reference is published for the profile `{profile}`** (there is no `{place}`): the column *expected* "
            "is blank, and what stands beside it is the run that made this copy."
        ]
    for page, part in table.groupby("page", sort=False):
        first = part.iloc[0]
        lines += [
            f"\n## {_plain(first['chapter'])}\n",
            f"[Page](executed/{page}.ipynb) · `{first['command']}` · {duration(60 * first['minutes'])} · "
            f"{first['memory (GB)']:.1f} GB\n",
            "| claim | product | expected ± tolerance | this run |",
            "|---|---|---|---|",
        ]
        for row in part.to_dict("records"):
            claim = _plain(row["claim"]) + (f" (`{row['number']}`)" if row["kind"] == "number" else "")
            mark = {"no": " **(outside)**"}.get(row["holds"], "")
            cells = (claim, f"`{row['product']}`", row["expected"] or "—", (row["this run"] or "—") + mark)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def published(profile: str) -> dict[str, Any]:
    """The content of results/reference/<profile>.json; empty when there is none."""
    path = ROOT / "results/reference" / f"{profile}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def headlines() -> set[str]:
    """`page::name` of every number that a summary, a prose page or the claims table cites."""
    found = set()
    for page in PAGES:
        source = (ROOT / "notebooks" / f"{page}.py").read_text("utf-8")
        summary = source.partition("# ## Summary")[2].partition("\n# ## ")[0]
        found |= {f"{page}::{_base(match['name'])}" for match in _CITED.finditer(summary)}
    for path in (ROOT / "book").glob("*.md"):
        for match in _CITED.finditer(path.read_text("utf-8")):
            found.add(f"{match['page']}::{_base(match['name'])}")
    return found | {row["number"] for row in report.paper_rows("claims")}


def figures(notebook: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    """(name, caption) of each figure of an executed page, in the order in which they are shown."""
    prefix = f"fig-{folder.name.replace('_', '-')}-"
    names = {path.stem.replace("_", "-"): path.stem for path in folder.glob("*.svg")}
    shown = [cell["metadata"].get("mystnb", {}).get("figure", {}) for cell in notebook["cells"]]
    return [
        (names[label], re.sub(r"\\(.)", r"\1", figure["caption"]))  # `figures.show` escaped it for Markdown
        for figure in shown
        if (label := str(figure.get("name", "")).removeprefix(prefix)) in names
    ]


def title(notebook: dict[str, Any]) -> str:
    """The first heading of a page."""
    return "".join(notebook["cells"][0]["source"]).lstrip("# ").split("\n", 1)[0]


def _base(name: str) -> str:
    return re.sub(r"_(low|high)$", "", name)


def _drawn(path: Path, numbers: dict[str, dict[str, Any]]) -> list[str]:
    """Keys of the numbers whose value stands in a figure's CSV, intervals first; a whole number stands in many."""
    cells = pd.read_csv(path).select_dtypes("number").to_numpy().ravel()
    values = {f"{value:.6g}" for value in cells if value % 1}
    drawn = [key for key, entry in numbers.items() if f"{entry['value']:.6g}" in values]
    return sorted(drawn, key=lambda key: "low" not in numbers[key])


def _compare(
    keys: list[str], mine: dict[str, dict[str, Any]], reference: dict[str, Any], named: bool = False
) -> dict[str, str]:
    """The cells expected, this run and holds (yes, no, or empty when nothing is published) for some numbers."""
    told = reference.get("numbers", {})
    expected, got, verdicts = [], [], []
    for key in keys:
        name = f"{key.partition('::')[2]} " if named else ""
        got.append(name + _shown(mine[key]["value"]))
        if key in told:
            value, tolerance = told[key]["value"], told[key]["tolerance"]
            expected.append(f"{name}{_shown(value)} ± {_shown(tolerance, 2)}")
            verdicts.append(abs(mine[key]["value"] - value) <= tolerance)
    holds = ("yes" if all(verdicts) else "no") if verdicts else ""
    return {"expected": "; ".join(expected), "this run": "; ".join(got), "holds": holds}


def _shown(value: float, digits: int = 4) -> str:
    """A number as people write it: 22,327 and 0.3142, never 2.233e+04."""
    value = 0.0 if abs(value) < 1e-9 else value  # what rounding has left of a sum that is zero
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 10**digits else f"{value:.{digits}g}"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one table cell."""
    return re.sub(r"([\\`*_{}\[\]<>|$])", r"\\\1", " ".join(text.split()))


# ------------------------------------------------------------------ the front door


def measured(profile: str = "embedded") -> str:
    """What the README says that the two commands take: from the published run, or that there is none."""
    run = published(profile)
    if not run:
        return "No run is published yet; the cover page of the book you build says what your run took."
    machine = run["hardware"]
    where = machine["accelerator"] or f"{machine['processor']}, {machine['cores']} cores"
    setup = f"set-up {run['setup_minutes']:.1f} minutes, " if run.get("setup_minutes") else ""
    return (
        f"Measured on {where}: {setup}the chapters {run['minutes']:.1f} minutes with at most "
        f"{run['peak_memory_gb']:.1f} GB of memory; {run['disk_gb']:.1f} GB of disk in all."
    )


def caption(profile: str = "embedded") -> str:
    """What stands under the README's figure: chapter 5 of the published run, in numbers; or that there is none."""
    numbers = {key: entry["value"] for key, entry in published(profile).get("numbers", {}).items()}
    names = {kind: f"05_evaluation::chrf_{kind}" for kind in ("zero_shot", "tuned", "shuffled", "ceiling")}
    if not numbers.keys() >= {*names.values(), "05_evaluation::posts"}:
        return "*Chapter 5. Its numbers are not published for the embedded model.*"
    few = numbers.get("05_evaluation::chrf_few_shot")  # not there where the base ended almost none of those letters
    base = "the base" if few is None else f"the base without an example, {few:.1f} with one"
    return (
        "*Chapter 5 on the embedded model. Likeness to the reference (chrF): {zero_shot:.1f} for {base},\n"
        "{tuned:.1f} after tuning, {shuffled:.1f} for a letter written to somebody else,\n"
        "{ceiling:.1f} for a second letter to the same post. Bars are 95% intervals over {posts:.0f} posts at most;\n"
        "a reply that was cut off is counted and never scored.*"
    ).format(**{kind: numbers[name] for kind, name in names.items()}, base=base, posts=numbers["05_evaluation::posts"])


def renew_readme() -> Path:
    """Put the run's picture, `caption` and `measured` into README.md; CbtError when their marks are gone."""
    path = ROOT / "README.md"
    text = path.read_text("utf-8")
    for said in (caption, measured):
        start, stop = (mark.format(said.__name__) for mark in README_MARKS)
        before, mark, rest = text.partition(start)
        _, end, after = rest.partition(stop)
        if not mark or not end:
            raise CbtError(f"README.md has no place for {said.__name__}: it needs the lines {start} and {stop}")
        text = f"{before}{mark}\n{said()}\n{end}{after}"
    shutil.copyfile(ROOT / "results/embedded/05_evaluation/forest.png", ROOT / "book/_static/readme.png")
    path.write_text(text, encoding="utf-8", newline="\n")
    return path
