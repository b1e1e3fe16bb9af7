"""The built book in a browser, beside other built books: first view, weight, requests, accessibility; and its build.

    python benchmarks/site.py [--peer NAME=FOLDER] [--build] [--quick] [--json OUT]

Needs what `make test-browser` installs, and a built book. A peer is the HTML folder of any Jupyter Book or Sphinx site,
built on this machine with its own configuration; nothing of it is kept but figures. All are served over loopback, and
what they ask of other hosts is counted and refused. `--build` times the HTML build of all finished pages, from nothing,
three times; it ends with the same book in its place.

    first paint   seconds until something is seen, and until all has loaded, in a browser with an empty cache
    kB            all that a page loads, unpacked, without its pictures
    outside       requests to other hosts
    axe           kinds of serious or critical findings (axe-core, light, wide)
    cell          lines of the longest code cell
    too wide      pixels by which the page can be moved sideways on a screen of 390
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cbtlib import ROOT, book, writing

TOOLS = ROOT / "tests/browser"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NO_TEXT = {"index", "genindex", "search", "404", "py-modindex"}


def pages(folder: Path, most: int) -> list[str]:
    """Pages of a built site, at most so many, evenly spread over their names."""
    found = [path.relative_to(folder) for path in sorted(folder.rglob("*.html"))]
    found = [path for path in found if path.stem not in NO_TEXT and not path.parts[0].startswith("_")]
    if not found:
        sys.exit(f"{folder} holds no pages: give the folder with a site's index.html, as built")
    step = max(1, len(found) / most)
    return [found[int(k * step)].as_posix() for k in range(min(most, len(found)))]


def measure(name: str, folder: Path, most: int) -> dict[str, Any]:
    """Every page's figures, and their median or maximum."""
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None or not (TOOLS / "node_modules").exists():
        sys.exit("Chromium or the browser tests' packages are missing: `make test-browser` installs both")
    command = ["node", "measure.mjs", str(folder.resolve()), *pages(folder, most)]
    environment = os.environ | {"CHROMIUM": chromium}
    done = subprocess.run(command, cwd=TOOLS, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip()[-2000:]}")
    found = [json.loads(line) for line in done.stdout.splitlines()]

    def of(key: str) -> list[float]:
        return [len(one[key]) if key == "serious" else one[key] for one in found]

    return {
        "site": name, "pages": len(found),
        **{f"{key}_median": statistics.median(of(key)) for key in ("first_paint_s", "loaded_s", "kilobytes")},
        **{f"{key}_most": max(of(key)) for key in ("first_paint_s", "loaded_s", "kilobytes")},
        **{f"{key}_most": max(of(key)) for key in ("outside", "serious", "longest_cell", "too_wide_px")},
        "each": found,
    }  # fmt: skip


def rebuild() -> list[float]:
    """Seconds of three HTML builds of the finished pages, each from nothing."""
    manifest = max(ROOT.glob("results/*/manifest.json"), key=lambda path: path.stat().st_mtime)
    seconds = []
    for _ in range(3):
        shutil.rmtree(ROOT / "_build")
        began = time.perf_counter()
        book.build(manifest.parent.name)
        seconds.append(time.perf_counter() - began)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FOLDER", help="another built site")
    parser.add_argument("--build", action="store_true", help="time the HTML build of the finished pages too")
    parser.add_argument("--quick", action="store_true", help="two pages a site")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    sites = {"ours": book.HTML} | {name: Path(folder) for name, _, folder in (one.partition("=") for one in given.peer)}
    built = {"build_seconds": rebuild()} if given.build else {}
    rows = []
    for name, folder in sites.items():
        rows.append(measure(name, folder, 2 if given.quick else 20))
        row = rows[-1]
        print(
            f"{name:12} {row['pages']:3} pages   first paint {row['first_paint_s_median']:.2f} s (at most "
            f"{row['first_paint_s_most']:.2f}), loaded {row['loaded_s_median']:.2f} s   "
            f"{row['kilobytes_median']:5.0f} kB   outside {row['outside_most']}   "
            f"axe {row['serious_most']}   cell {row['longest_cell_most']}   too wide {row['too_wide_px_most']}",
            flush=True,
        )
    for key, value in built.items():
        print(f"{key}: {', '.join(f'{one:.1f}' for one in value)}")
    if given.json:
        writing.write_json(given.json, built | {"sites": rows})


if __name__ == "__main__":
    main()
