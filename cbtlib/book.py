"""The whole book: the graph of pages through Snakemake, then Jupyter Book, strictly.

`make_book` is `cbt book`; `build` is the graph's last step (`python -m cbtlib.book PROFILE RESULTS`).
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cbtlib import ROOT, CbtError, cache, duration, reading, report, reproducing
from cbtlib.run import PAGES, by_hand, profile_parameters

HTML = ROOT / "_build/html"


def make_book(profile: str, results: str = "results") -> Path:
    """Run every page whose inputs changed, build the book, and return its first page.

    A failed page stops the run; the same command goes on from there. A page that `cbt run -p` has made otherwise is run
    anew: a book is one profile's. One run at a time: the lock is released even by a kill, which is why Snakemake's own
    lock files are not used.
    """
    profile_parameters(profile, "claims")  # a wrong profile name is said before Snakemake starts
    started = time.monotonic()
    folder = ROOT / results
    folder.mkdir(exist_ok=True)
    with cache.alone(folder / ".lock", f"another run is making the book in {ROOT}; wait for it, or stop it"):
        command = [
            *(sys.executable, "-m", "snakemake", "--cores", "all", "--nolock"),
            *("--quiet", "host", "progress", "rules", "reason"),  # what fails is said
            *("--rerun-incomplete", "--rerun-triggers", "params", "input"),
            *("--scheduler", "greedy"),  # the other one is a solver, built for Intel processors alone on a Mac
            *("--config", f"profile={profile}", f"results={results}"),
        ]
        given = {page: other for page, facts in report.runs(profile, results).items() if (other := by_hand(facts))}
        for page, other in given.items():
            print(f"{page} was run with {other}: running it with the profile's own (a profile file keeps yours)")
        command += ["--forcerun", *given] if given else []
        done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        raise CbtError("the book is not finished (see above); mend it and give the same command: done pages are kept")
    took = duration(time.monotonic() - started)
    print(f"\nThe book is at {HTML / 'index.html'} ({took}). Open it, or serve it: make serve")
    return HTML / "index.html"


def build(profile: str, results: str = "results") -> None:
    """Render the executed pages with Jupyter Book; any Sphinx warning is an error. Writes the manifest first."""
    report.manifest(profile, results)
    executed = ROOT / "book/executed"
    executed.mkdir(exist_ok=True)
    for page in PAGES:
        source, target = ROOT / results / profile / page / f"{page}.ipynb", executed / f"{page}.ipynb"
        if not target.exists() or target.read_bytes() != source.read_bytes():  # keeps Sphinx from reading it again
            shutil.copyfile(source, target)
            # Prose cites numbers of other pages, and Sphinx would not read it again because one of these has changed.
            shutil.rmtree(ROOT / "_build/.doctrees", ignore_errors=True)
    reproducing.write(profile, results)
    print("building the book …", flush=True)
    builder = "from jupyter_book.cli.main import main; main()"  # the package has no __main__
    command = [sys.executable, "-c", builder, "build", ".", "-W", "-n", "--keep-going", "-q"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}  # it prints the name of this folder
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, encoding="utf-8")
    if done.returncode:
        shutil.rmtree(ROOT / "_build")  # Sphinx would not repeat the warnings of pages it has already read
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "WARNING" in line or "ERROR" in line]
        raise CbtError("the book does not build cleanly:\n" + "\n".join(lines or done.stderr.splitlines()[-15:]))


def fingerprint() -> str:
    """SHA-256 over the book's own sources: prose, style, configuration, and this module."""
    digest = hashlib.sha256()
    files = [path for path in reading.files(ROOT / "book") if "executed" not in path.parts]
    files += [ROOT / name for name in ("_config.yml", "_toc.yml", "REPRODUCING.md")]
    files += [Path(__file__), Path(reproducing.__file__), *(ROOT / "results/reference").glob("*.json")]
    for path in sorted(files):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def serve(port: int) -> None:
    """Serve the built book on this machine until interrupted."""
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    if not (HTML / "index.html").exists():
        raise CbtError("there is no book yet: run `make book` first")
    ThreadingHTTPServer.allow_reuse_address = os.name != "nt"  # there it would share a port that is in use
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=str(HTML)))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", "ports go from 0 to 65535")
        raise CbtError(f"port {port} cannot be used ({why}); choose another: cbt serve --port 8001") from None
    print(f"the book is at http://127.0.0.1:{port}/ (Ctrl-C ends)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    try:
        build(*sys.argv[1:])
    except CbtError as error:
        sys.exit(f"cbt: {error}")
