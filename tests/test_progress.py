"""Long work says how far it is, each place in its own way."""

import io
import subprocess
import sys

import pytest

from cbtlib import progress


@pytest.fixture
def log(monkeypatch, capsys):
    """What standard error holds after three of four posts, no terminal being there, and time passing fast."""
    monkeypatch.setattr(progress, "EVERY", 0.0)

    def work(kernel=False, **options):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "ipykernel", progress)
            if not kernel:
                patch.delitem(sys.modules, "ipykernel")
            with progress.bar(total=4, desc="labelling", unit="post", **options) as bar:
                bar.update(2)
                bar.update(1)
        return capsys.readouterr().err

    return work


def test_a_log_file_gets_lines_and_no_bar_that_overwrites_itself(log):
    written = log()
    assert "\r" not in written
    lines = written.split("\n")
    assert [line.split(",")[0] for line in lines[:-1]] == [f"labelling: {done} of 4" for done in (0, 2, 3)]
    assert " passed, " in lines[1] and lines[1].endswith(" to go")


def test_a_run_that_goes_on_counts_what_it_had(log):
    assert log(initial=1).startswith("labelling: 1 of 4")


def test_pages_of_a_book_stay_clean(log):
    assert log(kernel=True) == ""


def test_short_work_leaves_a_log_as_it_was():
    code = "from cbtlib import progress\nfor _ in progress.bar(range(1000), desc='x', unit='post'): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_in_a_terminal_it_is_a_bar(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.bar(total=4, desc="labelling", unit="post") as bar:
        bar.update(4)
    written = capsys.readouterr().err
    assert written.startswith("\rlabelling:   0%|") and "4/4" in written


class Deaf(io.StringIO):
    """A log on a disk that is full."""

    def write(self, text):
        if text:
            raise OSError(28, "No space left on device")
        return 0


class Plain:
    """What some programs put in the place of standard error: it can be written to, and no more."""

    def write(self, text):
        return len(text)

    def flush(self):
        pass


@pytest.mark.parametrize("make", [lambda: None, Deaf, Plain, lambda: closed])
def test_no_log_and_a_log_that_cannot_be_written_stop_no_work(monkeypatch, make):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "stderr", make())
    assert list(progress.bar(range(5), desc="x", unit="post")) == list(range(5))


closed = io.StringIO()
closed.close()
