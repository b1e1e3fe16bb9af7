"""One notebook, one profile: executed by papermill, dressed for the book, with its provenance beside it.

Notable choices
- Sources are py:percent; jupytext makes the notebook in memory, papermill runs it in a fresh kernel.
- The defaults of a page's `parameters` cell are the embedded profile; a profile file lists only what differs.
- An unknown parameter or profile, or a value of another type, is refused before anything runs.
- A page that fails keeps what it did in `failed.ipynb`, and the reader gets one sentence.
- `fingerprint` is the content a page depends on (source, imported modules and those that dress it, parameters, data,
  earlier pages): the graph reruns a page when this changes, and not when a file was merely touched.
"""

import ast
import contextlib
import difflib
import functools
import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cbtlib import ROOT, CbtError, duration, reading, shown

FOLDED = {
    "imports": "The imports of this page",
    "parameters": "The parameters of this page",
    "injected-parameters": "What the {profile} profile sets",
    "figure": "The code of this figure",
}
"""Cells whose code is folded on the page (by tag, or because the cell shows a figure), and what the fold says."""

PAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "notebooks/chapters.yml").read_text("utf-8"))


TYPES = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,), "list": (list,)}
"""What a parameter of each annotated type may be given (a bool is no int)."""


def profile_parameters(profile: str, page: str) -> dict[str, Any]:
    """The parameters that `notebooks/profiles/<profile>.yml` sets for a page (the rest keep the page's defaults).

    CbtError for another profile, and for one that names an unknown page.
    """
    folder = ROOT / "notebooks/profiles"
    path = folder / f"{profile}.yml"
    if not path.exists():
        known = sorted(file.stem for file in folder.glob("*.yml"))
        raise CbtError(f"there is no profile {profile!r}{_nearest(profile, known)}; known are {', '.join(known)}")
    content = yaml.safe_load(path.read_text("utf-8"))
    chapters = content.get("chapters") or {}
    unknown = set(chapters) - set(PAGES)
    if unknown:
        raise CbtError(f"{shown(path)}, field chapters: there is no page {sorted(unknown)[0]!r}")
    return chapters.get(page) or {}


def run(notebook: Path, profile: str, parameters: dict[str, Any] | None = None, results: str = "results") -> Path:
    """Execute one page; returns the executed notebook results/<profile>/<page>/<page>.ipynb.

    Beside it: metrics.json and products (written by the page) and run.json (seconds, peak memory in GB, parameters,
    source hash, commit, hardware). Raises CbtError when the page cannot run or fails.
    """
    # jsonschema, which they import, would parse a grammar of web addresses for a second; no address is checked here.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import jupytext
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from cbtlib import cache, report, writing

    notebook = Path(notebook).resolve()
    if not notebook.is_file():
        known = sorted(path.name for path in (ROOT / "notebooks").glob("*.py"))
        raise CbtError(f"{notebook} does not exist{_nearest(notebook.name, known)}; pages are {', '.join(known)}")
    if notebook.suffix != ".py":
        raise CbtError(f"{shown(notebook)} is no page; name a .py page, notebooks/03_distortion_statistics.py, say")
    page = notebook.stem
    source = jupytext.read(notebook)
    has = known_parameters(source)
    wanted = {**profile_parameters(profile, page), **(parameters or {}), "profile": profile, "results": results}
    for name, value in wanted.items():
        if name not in has:
            raise CbtError(
                f"{shown(notebook)} has no parameter {name!r}{_nearest(name, list(has))}; "
                f"it has {', '.join(sorted(has))}"
            )
        kind = has[name]["inferred_type_name"].strip("'\"")
        if type(value) not in TYPES.get(kind, (type(value),)):
            raise CbtError(f"{shown(notebook)}: {name} has to be of type {kind}, and {value!r} is not")
    folder = writing.make_folder(ROOT / results / profile / page)
    failed = folder / "failed.ipynb"
    for product in ("run.json", "metrics.json"):  # after a kill, neither may stand beside the other's half
        (folder / product).unlink(missing_ok=True)
    os.environ.update({"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "PYTHONHASHSEED": "0"})
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # large pages: weights are read a tenth faster
    # A cbtlib of another folder would run the page and leave its products there.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel of this Python, and no old one of the user's
    started = time.monotonic()
    with _PeakMemory() as memory, _private_transport() as transport:
        try:
            done = papermill.execute_notebook(
                source,
                str(failed),
                wanted,
                kernel_name="python3",
                cwd=str(ROOT),
                start_timeout=300,
                config=transport,
            )
        except PapermillExecutionError as error:
            if error.ename.endswith("Error") and "CbtError" in str(error.traceback):
                raise CbtError(f"{page}: {error.evalue}") from None
            raise CbtError(
                f"{page}: cell {error.exec_count} failed with {error.ename}: {error.evalue}; "
                f"the whole traceback is in {shown(failed)}"
            ) from None
    failed.unlink()
    facts = {
        "page": page,
        "profile": profile,
        "parameters": wanted,
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_gb": round(memory.peak / 1e9, 2),
        "source_sha256": cache.sha256(notebook),
        "commit": report.commit(),
        "hardware": report.hardware(),
    }
    dress(done, facts)
    target = folder / f"{page}.ipynb"
    jupytext.write(done, target, fmt="ipynb")
    writing.write_json(folder / "run.json", facts)
    return target


def by_hand(facts: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a page's run.json that its profile does not set so: what `-p` has changed."""
    profiled = profile_parameters(facts["profile"], facts["page"])
    given = {name: value for name, value in facts["parameters"].items() if name not in ("profile", "results")}
    return {name: value for name, value in given.items() if name not in profiled or profiled[name] != value}


def known_parameters(source: Any) -> dict[str, Any]:
    """Default and type of each parameter of a page, by name, as papermill reads them off its `parameters` cell."""
    import papermill

    return papermill.inspect_notebook(_with_kernel(source))


def dress(notebook: Any, facts: dict[str, Any]) -> None:
    """Turn an executed notebook into a page of the book, in place.

    Fills the banner from `facts` (run.json), moves captions and alt text from outputs to their cell (where MyST-NB
    reads them), folds code that is not the argument (`FOLDED`), and drops standard error, the value of a closing
    `page.number(…)` or `page.save()`, and what papermill kept of this machine.
    """
    from cbtlib import student
    from cbtlib.report import METADATA

    notebook.cells = student.dress(notebook.cells)
    for cell in notebook.cells:
        tags = cell.metadata.setdefault("tags", [])
        for clock in ("papermill", "execution"):
            cell.metadata.pop(clock, None)
        if "banner" in tags:
            cell.source = banner(facts)
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        if _is_bookkeeping(cell.source):
            cell.outputs = [output for output in cell.outputs if output["output_type"] != "execute_result"]
        dresses = [output.metadata[METADATA] for output in cell.outputs if METADATA in output.get("metadata", {})]
        if len(dresses) > 1:
            raise CbtError(
                f"{facts['page']}: one cell shows {len(dresses)} figures; give each its own cell and caption"
            )
        folded = next((tag for tag in FOLDED if tag in tags), "figure" if dresses else None)
        if folded:
            cell.metadata["mystnb"] = {"code_prompt_show": FOLDED[folded].format(**facts), **(dresses or [{}])[0]}
            cell.metadata["tags"] = list(dict.fromkeys([*tags, "hide-input"]))
    notebook.metadata["papermill"] = {
        "input_path": f"notebooks/{facts['page']}.py",
        "source_sha256": facts["source_sha256"],
        "commit": facts["commit"],
        "profile": facts["profile"],
    }


def _is_bookkeeping(source: str) -> bool:
    """Does a cell end with a bare `page.number(…)` or `page.save()`? Its value is for the page, not for the reader."""
    try:
        last = ast.parse(source).body[-1]
    except (SyntaxError, IndexError):
        return False
    call = last.value if isinstance(last, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func) in ("page.number", "page.save")


def banner(facts: dict[str, Any]) -> str:
    """The note under a page's title: which profile made it, how long, with what memory, on what machine and code."""
    machine = facts["hardware"]
    where = machine["accelerator"] or f"{machine['processor']}, {machine['cores']} cores"
    head, changed, _ = facts["commit"].partition("+")
    code = "" if head in ("", "unknown") else f", by commit `{head[:7]}`" + (" with changes" if changed else "")
    given = "".join(f" -p {name}={value}" for name, value in by_hand(facts).items())
    text = (
        f"This page was computed by the **{facts['profile']}** profile in {duration(facts['seconds'])}, "
        f"peak memory {facts['peak_memory_gb']:.1f} GB, on {where}{code}. "
        f"Rerun it: `cbt run notebooks/{facts['page']}.py --profile {facts['profile']}{given}`."
    )
    if facts["profile"] == "smoke":
        text += " **A smoke run: a random model and a few records. Its numbers mean nothing.**"
    return f":::{{admonition}} How this page was made\n:class: run-banner\n{text}\n:::"


def modules(*sources: Path) -> list[Path]:
    """Files of cbtlib that Python files import, directly or through others, sorted; found without running them.

    With them the texts that these read: those beside a package's modules, and those that a module of cbtlib names.
    """
    found: set[Path] = set()
    todo = list(sources)
    while todo:
        new = _imported(todo.pop().read_text("utf-8")) - found
        found |= new
        todo += new
    beside = {folder: [x for x in reading.files(folder) if x.parent == folder] for folder in {x.parent for x in found}}
    texts = {(path, text) for path in found for text in beside[path.parent] if text.suffix != ".py"}
    named = {text for path, text in texts if path.parent != ROOT / "cbtlib" or text.name in path.read_text("utf-8")}
    return sorted(found | named)


@functools.cache  # the pages import much the same
def _imported(code: str) -> frozenset[Path]:
    found: set[Path] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cbtlib":
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "cbtlib"]
        else:
            continue
        for name in names:
            base = ROOT / Path(*name.split("."))
            found |= {path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()}
    return frozenset(found)


def inputs(page: str) -> list[Path]:
    """The files that a page is made of, products of earlier pages aside: sources, modules, data and the lock."""
    sources = ROOT / "notebooks" / f"{page}.py", ROOT / "cbtlib/run.py"  # this module runs and dresses the page
    files = {*sources, *modules(*sources), ROOT / "requirements.lock"}
    for name in PAGES[page]["data"]:
        path = ROOT / "data" / name
        files |= set(reading.files(path)) if path.is_dir() else {path}
    return sorted(files)


def fingerprint(page: str, profile: str) -> str:
    """SHA-256 over everything a page's products depend on: a change here, and only here, makes the graph rerun it."""
    digest = hashlib.sha256(json.dumps(profile_parameters(profile, page), sort_keys=True).encode())
    for path in inputs(page):
        if not path.exists():
            raise CbtError(f"{shown(path)}, which page {page} reads, does not exist")
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    for earlier in sorted(PAGES[page]["needs"]):
        digest.update(fingerprint(earlier, profile).encode())
    return digest.hexdigest()


class _PeakMemory:
    """Samples this process and its children (the kernel, the model server) twice a second; `peak` is in bytes."""

    peak = 0

    def __enter__(self) -> "_PeakMemory":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._stop.wait(0.5):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)


@contextlib.contextmanager
def _private_transport() -> Iterator[Any]:
    """Settings for Unix sockets between papermill and kernel: nobody else can listen (TCP on Windows).

    They are in a folder of this run: by default two runs in one folder would take each other's.
    """
    from traitlets.config import Config

    with tempfile.TemporaryDirectory(prefix="cbt") as folder:
        if os.name == "posix" and len(os.fsencode(folder)) > 80:
            raise CbtError(f"{folder} is too long a name for a socket: export TMPDIR=/tmp")
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"} if os.name == "posix" else {}
        yield Config({"KernelManager": sockets})


def _with_kernel(notebook: Any) -> Any:
    """Papermill reads parameters by the kernel's name and language, which jupytext may leave out."""
    spec = notebook.metadata.setdefault("kernelspec", {"name": "python3", "display_name": "Python 3 (ipykernel)"})
    spec.setdefault("language", "python")
    return notebook


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
