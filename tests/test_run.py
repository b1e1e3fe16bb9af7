"""One notebook, one profile: clear refusals, kept failures, pages dressed for the book, content fingerprints."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from cbtlib import ROOT, CbtError, book, cache, report, run
from cbtlib.cli import app

HEAD = """# %%
from cbtlib import CbtError

# %% tags=['parameters']
profile: str = 'embedded'
results: str = 'results'
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """A page `claims` (a known name) whose products land in a folder of their own."""

    def make(code: str) -> Path:
        path = tmp_path / "claims.py"
        path.write_text(f"{HEAD}\n# %%\n{code}\n", "utf-8")
        return path

    return make


def test_a_wrong_profile_names_the_nearest(notebook):
    with pytest.raises(CbtError, match=r"no profile 'smok'.*did you mean 'smoke'"):
        run.run(notebook("1"), "smok")


def test_an_unknown_parameter_is_refused_before_anything_runs(notebook, tmp_path):
    page = notebook(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(CbtError, match=r"no parameter 'profil'.*did you mean 'profile'"):
        run.run(page, "smoke", {"profil": 1}, str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", ["many", True, 1.5, None])
def test_a_parameter_of_another_type_is_refused_before_anything_runs(notebook, tmp_path, value):
    page = notebook("1")
    page.write_text(page.read_text("utf-8").replace("results: str", "items: int = 3  # posts\nresults: str"), "utf-8")
    with pytest.raises(CbtError, match=r"items has to be of type int, and .* is not"):
        run.run(page, "smoke", {"items": value}, str(tmp_path))
    assert not (tmp_path / "smoke").exists()


@pytest.mark.parametrize("value", ["[1", "2026-13-45"])
def test_a_value_that_is_no_yaml_is_named(value):
    done = CliRunner().invoke(app, ["run", "notebooks/03_distortion_statistics.py", "-p", f"data={value}"])
    assert isinstance(done.exception, CbtError) and f"-p data={value}: " in str(done.exception)


def test_a_file_that_is_no_page_is_refused():
    with pytest.raises(CbtError, match=r"notebooks/profiles/smoke\.yml is no page; name a \.py page"):
        run.run(ROOT / "notebooks/profiles/smoke.yml", "smoke")


def test_a_missing_notebook_names_the_nearest():
    with pytest.raises(CbtError, match=r"did you mean 'claims.py'"):
        run.run(Path("notebooks/claim.py"), "smoke")


def test_a_readers_mistake_is_one_sentence(notebook, tmp_path):
    with pytest.raises(CbtError) as caught:
        run.run(notebook("raise CbtError('row 3 has no question')"), "smoke", results=str(tmp_path))
    assert str(caught.value) == "claims: row 3 has no question"


def test_a_failure_keeps_the_notebook_and_writes_no_page(notebook, tmp_path):
    with pytest.raises(CbtError, match=r"cell \d+ failed with ZeroDivisionError"):
        run.run(notebook("1 / 0"), "smoke", results=str(tmp_path))
    folder = tmp_path / "smoke/claims"
    assert "ZeroDivisionError" in (folder / "failed.ipynb").read_text()
    assert not (folder / "claims.ipynb").exists() and not (folder / "run.json").exists()


def test_a_page_that_fails_leaves_no_number_under_the_facts_of_the_run_before(notebook, tmp_path):
    save = "from cbtlib import report\npage = report.Page('claims', 'smoke', results)\npage.number('n', 1, what='x')"
    run.run(notebook(f"{save}\npage.save()"), "smoke", results=str(tmp_path))
    folder = tmp_path / "smoke/claims"
    assert (folder / "run.json").exists() and (folder / "metrics.json").exists()
    with pytest.raises(CbtError, match="ZeroDivisionError"):
        run.run(notebook(f"1 / 0\n{save}"), "smoke", results=str(tmp_path))
    assert not (folder / "run.json").exists() and not (folder / "metrics.json").exists()


def test_pages_that_run_at_the_same_time_do_not_meet(notebook, tmp_path):
    page = notebook("import time; time.sleep(2); print(results)")  # each starts while the others run
    with ThreadPoolExecutor(3) as pool:
        places = [str(tmp_path / name) for name in "abc"]
        made = list(pool.map(lambda place: run.run(page, "smoke", results=place), places))
    outputs = [nbformat.read(target, as_version=4).cells[-1].outputs[0].text.strip() for target in made]
    assert outputs == places


def test_a_page_carries_its_provenance_and_no_clock(notebook, tmp_path):
    target = run.run(notebook("print(profile)"), "smoke", results=str(tmp_path))
    facts = json.loads((target.parent / "run.json").read_text())
    assert facts["profile"] == "smoke" and facts["seconds"] > 0 and facts["peak_memory_gb"] > 0
    page = nbformat.read(target, as_version=4)
    assert page.cells[-1].outputs[0].text == "smoke\n"
    assert set(page.metadata["papermill"]) == {"input_path", "source_sha256", "commit", "profile"}
    assert not any("execution" in cell.metadata or "papermill" in cell.metadata for cell in page.cells)
    assert str(ROOT) not in target.read_text()


@pytest.mark.skipif(not metadata.version("torch").endswith("+cpu"), reason="a GPU is asked for its name by torch")
def test_what_runs_a_page_loads_no_library_that_only_pages_need():
    """They take seconds to import, and each of the book's pages has a process of its own that runs it."""
    code = "import sys; from cbtlib import report, run, student; report.hardware(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"cbtlib.run", "numpy"} <= set(done.stdout.split())
    assert not {"torch", "transformers", "matplotlib", "scipy.stats"} & set(done.stdout.split())


def facts() -> dict:
    machine = {"processor": "cpu", "cores": 2, "memory_gb": 8, "accelerator": None}
    return {"page": "p", "profile": "smoke", "seconds": 6.0, "peak_memory_gb": 1.0, "hardware": machine,
            "parameters": {"profile": "smoke"}, "source_sha256": "0", "commit": "c"}  # fmt: skip


def test_captions_and_alt_text_move_to_the_cell():
    dress = {"image": {"alt": "a bar at 0.54"}, "figure": {"caption": "The share", "name": "fig-x"}}
    shown = nbformat.v4.new_output("display_data", {"text/plain": "x"}, metadata={report.METADATA: dress})
    noise = nbformat.v4.new_output("stream", name="stderr", text="100%")
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[shown, noise])])
    run.dress(page, facts())
    assert page.cells[0].metadata["mystnb"] == {**dress, "code_prompt_show": "The code of this figure"}
    assert "hide-input" in page.cells[0].metadata["tags"]
    assert len(page.cells[0].outputs) == 1
    twice = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[shown, shown])])
    with pytest.raises(CbtError, match="2 figures"):
        run.dress(twice, facts())


def test_what_a_number_returns_is_not_printed_and_other_values_are():
    value = nbformat.v4.new_output("execute_result", {"text/plain": "np.float64(0.5)"}, execution_count=1)
    sources = ["x = 1\npage.number('a', x, what='b')", "page.save()", "page.number('a', 1, what='b') + 1", "%time x"]
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, outputs=[value]) for source in sources])
    run.dress(page, facts())
    assert [len(cell.outputs) for cell in page.cells] == [0, 0, 1, 1]


def test_a_smoke_page_says_that_its_numbers_mean_nothing():
    assert "mean nothing" in run.banner(facts())
    assert "mean nothing" not in run.banner({**facts(), "profile": "embedded"})


@pytest.mark.parametrize(
    ("commit", "said"),
    [
        ("0123456789abcdef", "2 cores, by commit `0123456`. "),
        ("0123456789abcdef+changes", "2 cores, by commit `0123456` with changes. "),
        ("unknown", "2 cores. "),
        ("", "2 cores. "),
    ],
)
def test_the_banner_names_the_code(commit, said):
    assert said in run.banner({**facts(), "commit": commit})


def test_a_port_in_use_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "index.html").write_text("a book", "utf-8")
    monkeypatch.setattr(book, "HTML", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CbtError, match=rf"port {port} cannot be used .*choose another: cbt serve --port"):
            book.serve(port)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(1.2, "in 1 second,"), (2.7, "in 3 seconds,"), (119, "in 119 seconds,"), (147.2, "in 2.5 minutes,"),
     (2641.7 * 60, "in 44.0 hours,")],
)  # fmt: skip
def test_the_banner_says_a_time_as_a_reader_would(seconds, said):
    assert said in run.banner({**facts(), "seconds": seconds})


def test_the_banner_says_what_was_changed_by_hand():
    page = {**facts(), "page": "claims", "parameters": {"profile": "smoke", "model": "/mine", "items": 3}}
    assert "`cbt run notebooks/claims.py --profile smoke -p model=/mine -p items=3`" in run.banner(page)
    assert " -p " not in run.banner(facts())


def test_touching_a_file_changes_no_fingerprint_and_content_does(tmp_path, monkeypatch):
    source = ROOT / "notebooks/claims.py"
    before = run.fingerprint("claims", "smoke")
    os.utime(source)
    assert run.fingerprint("claims", "smoke") == before
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + (b"#" if self == source else b""))
    assert run.fingerprint("claims", "smoke") != before


@pytest.mark.parametrize("name", ["data/corpus/.DS_Store", "cbtlib/prompts/.DS_Store", "data/corpus/Thumbs.db"])
def test_what_a_file_manager_leaves_changes_no_fingerprint(tmp_path, monkeypatch, name):
    for folder in ("data", "cbtlib", "notebooks", "book", "profiles"):
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("executed"))
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    run._imported.cache_clear()
    try:
        inputs = run.inputs("02_generation")
        assert {tmp_path / "data/corpus/train.jsonl", tmp_path / "cbtlib/corpus.py"} <= set(inputs)
        (tmp_path / name).write_bytes(b"\0")
        assert run.inputs("02_generation") == inputs
    finally:
        run._imported.cache_clear()


def test_a_module_change_reaches_only_pages_that_import_it(monkeypatch):
    pages = list(run.PAGES)
    module = ROOT / "cbtlib/ratings.py"
    using = {page for page in pages if module in run.modules(ROOT / "notebooks" / f"{page}.py")}
    assert "06_human_evaluation" in using and "04_lora_training" not in using
    before = {page: run.fingerprint(page, "smoke") for page in pages}
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + (b"#" if self == module else b""))
    changed = {page for page in pages if run.fingerprint(page, "smoke") != before[page]}
    later = {page for page in pages if using & set(run.PAGES[page]["needs"])}
    assert changed == using | later


@pytest.mark.parametrize("page", run.PAGES)
def test_what_dresses_a_page_is_among_its_inputs(page):
    assert {ROOT / "cbtlib/run.py", ROOT / "cbtlib/student.py"} <= set(run.inputs(page))


def test_a_text_of_cbtlib_reaches_only_pages_whose_modules_name_it():
    form = ROOT / "cbtlib/rating_form.html"
    assert {page for page in run.PAGES if form in run.inputs(page)} == {"06_human_evaluation", "recipe_compare"}


@pytest.mark.skipif(os.name == "nt", reason="a link needs a privilege there")
def test_the_book_is_made_in_a_folder_with_a_space(tmp_path):
    (tmp_path / "my environment").symlink_to(sys.prefix)
    python = str(tmp_path / "my environment/bin" / Path(sys.executable).name)
    command = [python, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    command += ["--cores", "1", "--dry-run", "--printshellcmds", "--config", "profile=smoke", "results=my results"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if " -m cbtlib" in line]
    words = [shlex.split(line.removeprefix("Shell command: ")) for line in lines]
    assert len(words) == len(run.PAGES) + 1
    assert {line[0] for line in words} == {python} and {line[-1] for line in words} == {"my results"}


def test_a_page_runs_on_this_cbtlib_whatever_the_environment_names(tmp_path):
    (tmp_path / "cbtlib").mkdir()
    (tmp_path / "cbtlib/__init__.py").write_text("raise ImportError('a cbtlib of another folder')", "utf-8")
    command = [sys.executable, "-m", "cbtlib", "run", str(ROOT / "notebooks/data.py"), "--profile", "smoke"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "--results", str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "smoke/data/metrics.json").is_file()


def test_the_book_is_made_by_one_run_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    held = cache.alone(tmp_path / "results/.lock", "nobody holds it")
    with held, pytest.raises(CbtError, match="another run is making the book"):
        book.make_book("smoke")
