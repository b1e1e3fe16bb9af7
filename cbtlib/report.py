"""The numbers a page writes, and what is made of them: manifest, claims, tolerances.

Notable choices
- `metrics.json` holds no clock and no path: the same run writes the same bytes. Clocks stand in `run.json`.
- A number that is not finite is refused here, so nothing that failed can be printed as a number.
- Outcomes that are not data (refused, unparsed, …) are counted beside the numbers, never folded into them.
- A claim's verdict is computed from the claim's row and the run's numbers; a blank value gives no verdict.
"""

import csv
import functools
import hashlib
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from pandas.io.formats.style import Styler
from scipy.special import ndtri

from cbtlib import ROOT, CbtError, cache, markup, naming, reading, shown
from cbtlib.answers import OUTCOMES
from cbtlib.prevalence import wilson
from cbtlib.reading import read_json
from cbtlib.writing import make_folder, write_csv, write_json

METADATA = "cbt"
"""Key of the output metadata in which `figures.show` leaves a figure's caption and alt text for its cell."""
VERDICTS = ("reproduced", "direction holds", "undecided", "differs", "not comparable", "not run")


class Page:
    """What one page produces for one profile: numbers, tables, outcome counts and other products.

    `name` is the notebook's name without ending, `results` the folder of all profiles (relative to the repository).
    """

    def __init__(self, name: str, profile: str, results: str = "results"):
        self.name, self.profile = name, profile
        self.root = ROOT / results / profile
        self.dir = self.root / name
        make_folder(self.dir)
        self._numbers: dict[str, dict[str, Any]] = {}
        self._outcomes: dict[str, dict[str, int]] = {}

    def product(self, page: str, file: str) -> Path:
        """Path of a product of an earlier page; CbtError with the command that makes it when it is not there."""
        path = self.root / page / file
        if not path.exists():
            raise CbtError(
                f"this page needs {file} of page {page}, and {shown(path)} does not exist; "
                f"run: cbt run notebooks/{page}.py --profile {self.profile}"
            )
        return path

    def number(
        self,
        name: str,
        value: float,
        *,
        what: str,
        low: float | None = None,
        high: float | None = None,
        n: int | None = None,
    ) -> float:
        """Record one number (with interval [low, high] and number of items n) and make it citable as `{glue:text}`.

        With an interval, `<name>_low` and `<name>_high` can be cited too. Returns the value. CbtError for a name given
        twice, half an interval or one beside its value, and what is no number.
        """
        from myst_nb import glue

        if name in self._numbers:
            raise CbtError(f"{self.name}: the number {name!r} is written twice; give each its own name")
        entry: dict[str, Any] = {"value": value, "what": what, "low": low, "high": high, "n": n}
        for key in ("value", "low", "high"):
            if entry[key] is not None and not math.isfinite(float(entry[key])):
                raise CbtError(
                    f"{self.name}: {key} of {name!r} is {entry[key]}, which is not a number; it was not written"
                )
        if (low is None) != (high is None):
            raise CbtError(f"{self.name}: {name!r} has one end of an interval; give both low and high")
        if low is not None and high is not None and not low <= value <= high:
            raise CbtError(f"{self.name}: {name!r} = {value} lies outside its interval [{low}, {high}]")
        self._numbers[name] = {key: _plain(item) for key, item in entry.items() if item is not None}
        glue(name, _plain(value), display=False)
        if low is not None and high is not None:
            glue(f"{name}_low", _plain(low), display=False)
            glue(f"{name}_high", _plain(high), display=False)
        return value

    def count(self, name: str, k: int, n: int, *, what: str) -> int:
        """Record k of n sampled items with n times Wilson's interval: another draw gives another count. Returns k."""
        low, high = (n * float(end) for end in wilson(k, n))
        self.number(name, k, low=low, high=high, n=n, what=what)
        return k

    def outcomes(self, step: str, counts: dict[str, int]) -> pd.DataFrame:
        """Record how many items of a step had which outcome, in the order of `OUTCOMES`; returns the table (1 row).

        CbtError for an outcome that is none of them.
        """
        unknown = set(counts) - set(OUTCOMES)
        if unknown:
            raise CbtError(f"{self.name}: unknown outcome {sorted(unknown)} in {step}; known are {', '.join(OUTCOMES)}")
        self._outcomes[step] = {key: int(counts.get(key, 0)) for key in OUTCOMES}
        return pd.DataFrame([self._outcomes[step]], index=pd.Index([step], name="step"))

    def table(self, name: str, frame: pd.DataFrame, *, caption: str, shown: int = 50, named: Sequence[str] = ()):
        """Write `<name>.csv` and return a captioned, escaped HTML table of the first `shown` rows.

        Text is shown as text and long text shortened; numbers have three decimals and stand right. A row's name stays a
        row header: the name of the index moves into the header line, and several index levels become columns. Machine
        names of rows and columns, and those in the cells of the columns `named`, become plain ones (`naming`), which
        the CSV does not.
        """
        write_csv(self.dir / f"{name}.csv", frame)
        view = naming.table(frame.head(shown), named)
        levels = view.index.nlevels > 1
        view = view.reset_index() if levels else view.copy()
        if not levels:
            view.columns.name, view.index.name = view.index.name, None
        # the one place that Styler cannot be told to escape
        view.columns = view.columns.set_names(
            [name if name is None else markup.escape(str(name)) for name in view.columns.names]
        )
        style = Styler(view, uuid=hashlib.sha256(name.encode()).hexdigest()[:8], cell_ids=False)
        formats = [_whole if _is_whole(view.iloc[:, place]) else _cell for place in range(view.shape[1])]
        numeric = {name for name, kind in view.dtypes.items() if kind.kind in "iuf"}
        return (
            (style.hide(axis="index") if levels else style)
            .set_caption(markup.escape(caption))
            .format(dict(zip(view.columns, formats, strict=True)), na_rep="—")
            .format_index(lambda label: markup.escape(str(label)), axis=0)
            .format_index(lambda label: _heading(label, label in numeric), axis=1)
            .set_table_attributes('class="dataframe"')
        )

    def save(self) -> None:
        """Write metrics.json: numbers and outcomes, sorted. Returns nothing, lest a page print this machine's path."""
        content = {
            "page": self.name,
            "profile": self.profile,
            "numbers": self._numbers,
            "outcomes": self._outcomes,
        }
        write_json(self.dir / "metrics.json", content)


def hardware() -> dict[str, Any]:
    """This machine in four facts: processor, logical cores, memory in GB, accelerator (or None)."""
    accelerator = None
    if not metadata.version("torch").endswith("+cpu"):  # such a build sees none, and is slow to import
        import torch

        accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "accelerator": accelerator,
    }


def commit() -> str:
    """The commit of the working tree, with `+changes` when tracked files differ from it; `unknown` outside git."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
        except OSError:  # a machine without git
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "HEAD")
    return head + ("+changes" if head and git("status", "--porcelain", "--untracked-files=no") else "") or "unknown"


def runs(profile: str, results: str = "results") -> dict[str, dict[str, Any]]:
    """The run.json of each page of a profile that has run."""
    facts = ("page", "profile", "parameters", "seconds", "peak_memory_gb", "commit")
    paths = sorted((ROOT / results / profile).glob("*/run.json"))
    return {path.parent.name: _read(path, *facts) for path in paths}


def manifest(profile: str, results: str = "results") -> dict[str, Any]:
    """Provenance of one profile's run, from each page's run.json: also written to results/<profile>/manifest.json."""
    pages = runs(profile, results)
    if not pages:
        raise _not_run(profile)
    data = reading.files(ROOT / "data")
    content = {
        "profile": profile,
        "commit": commit(),
        "lock_sha256": cache.sha256(ROOT / "requirements.lock"),
        "data_sha256": {path.relative_to(ROOT).as_posix(): cache.sha256(path) for path in data},
        "versions": {
            name: metadata.version(name) for name in ("torch", "transformers", "peft", "xllamacpp", "sacrebleu")
        },
        "python": platform.python_version(),
        "hardware": hardware(),
        "pages": pages,
        "minutes": round(sum(run["seconds"] for run in pages.values()) / 60, 2),
        "peak_memory_gb": max(run["peak_memory_gb"] for run in pages.values()),
    }
    write_json(ROOT / results / profile / "manifest.json", content)
    return content


def numbers(profile: str, results: str = "results") -> dict[str, dict[str, Any]]:
    """All numbers of a profile's pages as {"page::name": {"value", "low", "high", "n", "what"}}."""
    found = {}
    for path in sorted((ROOT / results / profile).glob("*/metrics.json")):
        for name, entry in _read(path, "numbers")["numbers"].items():
            found[f"{path.parent.name}::{name}"] = entry
    return found


def paper_rows(table: str) -> list[dict[str, str]]:
    """The rows of data/paper/<table>.csv; a blank is an empty text."""
    with (ROOT / "data/paper" / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def claims(profile: str, results: str = "results") -> pd.DataFrame:
    """The paper against this rerun, one row a claim of data/paper/claims.csv, with a verdict (see `verdict`).

    Columns: claim, paper (value and unit, or blank), source, status, rerun (value, interval, items), verdict, why.
    """
    found, rows = numbers(profile, results), paper_rows("claims")
    table = []
    for row in rows:
        run = found.get(row["number"])
        judged, why = verdict(row, run)
        table.append(
            {
                "claim": row["claim"],
                "paper": f"{row['value']} {row['unit']}".strip() if row["value"] else "blank",
                "source": row["source"],
                "status": row["status"],
                "rerun": ("gain " * row["compare"].startswith("above:") + _interval(run)) if run else "",
                "verdict": judged,
                "why": why,
            }
        )
    return pd.DataFrame(table, index=pd.Index([row["id"] for row in rows], name="id"))


def verdict(claim: dict[str, str], run: dict[str, Any] | None) -> tuple[str, str]:
    """One of `VERDICTS` and why, for a row of claims.csv and the run's number (None when the run has none).

    `compare` says how: `none` (not comparable), `value` (reproduced when the paper's value lies in the run's interval
    or within `tolerance` of its value), `above:X` (direction holds when the whole interval lies above X, undecided when
    it holds X, differs when it lies below). CbtError for another `compare`.
    """
    if claim["compare"] == "none":
        return "not comparable", "other data, another model" if claim[
            "number"
        ] else "no number of this book speaks to it"
    if run is None:
        return "not run", "this profile did not compute the number, or had too few answers to compare"
    low, high = run.get("low", run["value"]), run.get("high", run["value"])
    if claim["compare"].startswith("above:"):
        limit = float(claim["compare"].removeprefix("above:"))
        if low > limit:
            return "direction holds", f"the whole interval lies above {limit:g}"
        if high >= limit:
            return "undecided", f"the interval holds {limit:g}: this run cannot tell"
        return "differs", f"the whole interval lies below {limit:g}"
    if claim["compare"] != "value":
        raise CbtError(
            f"data/paper/claims.csv, claim {claim['id']}: compare is {claim['compare']!r}; use none, value or above:X"
        )
    if not claim["value"]:
        return "not comparable", "the paper's value is a blank that nobody has transcribed"
    paper, tolerance = float(claim["value"]), float(claim["tolerance"] or 0)
    if low - tolerance <= paper <= high + tolerance:
        return "reproduced", "the paper's value lies in this run's interval or tolerance"
    return "differs", "the paper's value lies outside this run's interval and tolerance"


def backbones(model: str, scores: Mapping[str, float]) -> pd.DataFrame:
    """The paper's four backbones, two rows each: the paper's value (NaN: a blank) and this run's (NaN: not run).

    `scores` are those of the tuned `model`; they fill the row of the backbone that has the model's name.
    """
    ran = re.sub(r"[^a-z0-9]", "", model.lower().rstrip("/").rsplit("/", 1)[-1])
    table: dict[tuple[str, str], dict[str, float]] = {}
    for row in paper_rows("automatic"):
        here = re.sub(r"[^a-z0-9]", "", row["backbone"].lower()) == ran
        paper = float(row["value"]) if row["value"] else math.nan
        table.setdefault((row["backbone"], "paper"), {})[row["metric"]] = paper
        mine = scores.get(row["number"], math.nan) if here else math.nan
        table.setdefault((row["backbone"], "this run"), {})[row["metric"]] = mine
    return pd.DataFrame.from_dict(table, orient="index").rename_axis(index=["backbone", "whose"])


def reproduce(profile: str, results: str = "results") -> pd.DataFrame:
    """Compare a run with results/reference/<profile>.json: columns expected, tolerance, got, holds; writes nothing.

    CbtError where nothing is published, or nothing has run.
    """
    path = ROOT / "results/reference" / f"{profile}.json"
    if not path.exists():
        raise CbtError(
            f"{shown(path)} does not exist: nobody has published numbers for the profile {profile!r} yet; "
            "`cbt claims --publish` does, from a run of committed sources"
        )
    reference, found = json.loads(path.read_text("utf-8")), numbers(profile, results)
    if not found:
        raise _not_run(profile)
    rows = []
    for key, entry in reference["numbers"].items():
        got = found.get(key, {}).get("value")
        holds = got is not None and abs(got - entry["value"]) <= entry["tolerance"]
        rows.append(
            {"number": key, "expected": entry["value"], "tolerance": entry["tolerance"], "got": got, "holds": holds}
        )
    return pd.DataFrame(rows).set_index("number")


def publish(profile: str, results: str = "results") -> Path:
    """Replace results/reference/<profile>.json by this run's numbers, on purpose; returns its path.

    Sampled letters differ between processors, because a sum of floating-point numbers does. So a tolerance is for two
    draws: where each has its 95% interval, all N numbers agree in 95 of 100 reruns if each may differ by half of that
    interval times sqrt(2) z(1 - 0.025/N) / z(0.975), by Bonferroni. At least 10% of the value are allowed, which is all
    where there is no interval. Refused for a smoke run, whose model is random, when a page has not run, or ran with
    parameters of its own, and when the pages ran from uncommitted sources.
    """
    # Imported here, not for the pages: they would read the graph, and rerun when another page changes.
    from cbtlib.run import PAGES, by_hand

    if profile == "smoke":
        raise CbtError("the numbers of a smoke run mean nothing: publish another profile (--profile)")
    made = manifest(profile, results)
    missing = [page for page in PAGES if page not in made["pages"]]
    if missing:
        raise CbtError(f"{', '.join(missing)} of profile {profile!r} did not run: `cbt book --profile {profile}` first")
    given = {page: other for page, run in made["pages"].items() if (other := by_hand(run))}
    if given:
        page, other = next(iter(given.items()))
        raise CbtError(f"page {page} ran with {other}, not as the profile says: `cbt book --profile {profile}` first")
    dirty = sorted(page for page, run in made["pages"].items() if "changes" in run["commit"])
    if dirty:
        raise CbtError(f"page {dirty[0]} ran from sources that are not committed: commit, rerun, then publish")
    entries, made_numbers = {}, numbers(profile, results)
    draws = math.sqrt(2) * ndtri(1 - 0.025 / len(made_numbers)) / ndtri(0.975)
    for key, entry in made_numbers.items():
        half = (entry.get("high", entry["value"]) - entry.get("low", entry["value"])) / 2
        tolerance = max(draws * half, 0.1 * abs(entry["value"]))
        entries[key] = {"value": entry["value"], "tolerance": _plain(tolerance), "what": entry["what"]}
    facts = {key: made[key] for key in ("profile", "commit", "lock_sha256", "data_sha256", "versions", "hardware")}
    cost = {key: made[key] for key in ("minutes", "peak_memory_gb")} | footprint()
    path = ROOT / "results/reference" / f"{profile}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**facts, **cost, "numbers": entries})
    return path


def footprint() -> dict[str, float]:
    """What the book takes here: `disk_gb` of environment, model, results and site; `setup_minutes` if make set up."""
    places = [ROOT / ".venv", cache.root(), ROOT / "results", ROOT / "_build"]
    used = sum(path.lstat().st_size for place in places for path in place.rglob("*") if path.is_file())
    note = ROOT / ".venv/installed"  # the Makefile writes the seconds that it took
    seconds = note.read_text("utf-8").strip() if note.exists() else ""
    setup = {"setup_minutes": round(int(seconds) / 60, 2)} if seconds.isdigit() else {}
    return {"disk_gb": round(used / 1e9, 2), **setup}


def _interval(run: dict[str, Any]) -> str:
    text = f"{run['value']:.4g}"
    text += f" [{run['low']:.4g}, {run['high']:.4g}]" if "low" in run else ""
    return text + (f", n = {run['n']}" if "n" in run else "")


def _cell(value: Any) -> str:
    """A cell as HTML: a number with three decimals, or else a text that may be foreign."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer)):
        return markup.escape(markup.shortened(str(value)))
    if not isinstance(value, float):
        return _whole(value)
    small = 0 < abs(value) < 0.0005
    return f"<span class='num'>{value:.0e}</span>" if small else f"<span class='num'>{value:,.3f}</span>"


def _heading(label: Any, over_numbers: bool) -> str:
    escaped = markup.escape(str(label))
    return f"<span class='num'>{escaped}</span>" if over_numbers else escaped


def _whole(value: Any) -> str:
    return f"<span class='num'>{value:,.0f}</span>"


def _is_whole(column: pd.Series) -> bool:
    """Counts that became floats, because one of them is missing or because they are means rounded on purpose."""
    if not pd.api.types.is_float_dtype(column):
        return False
    there = column.dropna()
    return bool(len(there)) and bool((there % 1 == 0).all()) and bool((there.abs() > 1).any())


def _plain(value: Any) -> Any:
    """A Python number (ten significant digits for floats, so that the last bit of a sum does not change the file)."""
    if isinstance(value, str):
        return value
    number = value.item() if hasattr(value, "item") else value
    return float(f"{number:.10g}") if isinstance(number, float) else number


def _read(path: Path, *fields: str) -> dict[str, Any]:
    """What a page's run left."""
    return read_json(path, fields, f"run: cbt run notebooks/{path.parent.name}.py --profile {path.parents[1].name}")


def _not_run(profile: str) -> CbtError:
    return CbtError(f"no page of profile {profile!r} has run yet: run `cbt book --profile {profile}`")


@functools.cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
