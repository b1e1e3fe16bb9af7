"""The cache: an entry is there whole or not at all, whatever happens while it is made."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cbtlib import CbtError, cache


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("CBT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(folder: Path) -> None:
    (folder / "model.bin").write_bytes(b"x" * 1000)


def fail(folder: Path) -> None:
    raise AssertionError("built again")


def start(build: str) -> subprocess.Popen:
    """Another process that makes the entry `model` with the body `build` of a builder."""
    code = (
        f"import os, signal, time\nfrom cbtlib import cache\ndef build(folder): {build}\ncache.entry('model', build, 1)"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def test_an_entry_is_built_once_and_found_again(place):
    assert cache.entry("model", make, 1) == place / "model"
    assert (cache.entry("model", fail, 1) / "model.bin").read_bytes() == b"x" * 1000


def test_a_failing_build_leaves_nothing_and_the_next_one_succeeds(place):
    def half(folder):
        make(folder)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.entry("model", half, 1)
    assert not [path for path in place.iterdir() if path.is_dir()]
    assert cache.damage(cache.entry("model", make, 1)) == ""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is Unix")
def test_kill_9_half_way_leaves_no_entry_and_the_next_run_cleans_up(place):
    child = start("(folder / 'model.bin').write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)")
    assert child.wait(60) == -signal.SIGKILL
    child.stderr.close()
    assert not (place / "model").exists() and list(place.glob("model.tmp-*"))
    cache.entry("model", make, 1)
    assert [path.name for path in place.iterdir() if path.is_dir()] == ["model"]


def test_parallel_first_runs_wait_for_one(place, tmp_path):
    build = (
        f"open({str(tmp_path / 'log')!r}, 'a').write('built '); time.sleep(1); (folder / 'model.bin').write_bytes(b'x')"
    )
    children = [start(build) for _ in range(3)]
    waited = [child.communicate(timeout=60)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built "
    assert any("waiting" in text for text in waited)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_and_leaves_nothing(place):
    def write(folder):
        make(folder)
        with open("/dev/full", "w") as file:
            file.write("x")

    with pytest.raises(CbtError, match=r"no space .*CBT_CACHE"):
        cache.entry("model", write, 1)
    assert not [path for path in place.iterdir() if path.is_dir()]


@pytest.mark.parametrize("said", ["No space left on device (os error 28)", "Disk quota exceeded (os error 122)"])
def test_a_full_disk_reported_by_a_native_library_is_named(said):
    def write(folder):
        raise ValueError(f"Error while serializing: I/O error: {said}")

    with pytest.raises(CbtError, match="no space"):
        cache.entry("model", write, 1)


def test_a_full_disk_is_named_where_a_folder_is_made_and_leaves_nothing(tmp_path):
    with pytest.raises(CbtError, match=r"no space left while writing .*model: free"), cache.folder(tmp_path / "model"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_too_little_space_is_said_before_the_work():
    with pytest.raises(CbtError, match=r"takes 1000000000000 MB and its disk has \d+ MB free"):
        cache.entry("model", fail, 10**12)


def test_a_cache_that_cannot_be_made_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CBT_CACHE", str(tmp_path / "file"))
    with pytest.raises(CbtError, match="set CBT_CACHE to a folder that can be written"):
        cache.entry("model", make, 1)


def flip(entry):
    data = bytearray((entry / "model.bin").read_bytes())
    data[500] ^= 1
    (entry / "model.bin").write_bytes(data)


DAMAGE = {
    "a byte changed": (flip, "SHA-256"),
    "a file cut short": (lambda entry: os.truncate(entry / "model.bin", 10), "has 10 bytes, not 1000"),
    "a file lost": (lambda entry: (entry / "model.bin").unlink(), "model.bin is missing"),
    "no manifest": (lambda entry: (entry / "manifest.json").unlink(), "manifest.json is missing"),
    "half a manifest": (lambda entry: (entry / "manifest.json").write_text('{"mod'), "cannot be read"),
    "a foreign manifest": (lambda entry: (entry / "manifest.json").write_text("[1]"), "cannot be read"),
}


@pytest.mark.parametrize("hurt, says", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_entry_is_named_and_rebuilt(capfd, hurt, says):
    entry = cache.entry("model", make, 1)
    hurt(entry)
    assert says in cache.damage(entry)
    cache.entry("model", make, 1)
    assert cache.damage(entry) == "" and (entry / "model.bin").read_bytes() == b"x" * 1000
    assert says in capfd.readouterr().err


def test_a_copied_cache_is_whole_though_its_times_differ():
    entry = cache.entry("model", make, 1)
    os.utime(entry / "model.bin", (1, 1))
    assert cache.damage(entry) == ""


def test_a_file_in_the_place_of_the_folder_above_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CbtError, match=r"cannot make the folder .*file"), cache.folder(tmp_path / "file/below"):
        pytest.fail("there is no place for it")


def test_the_manifest_tells_the_hash():
    entry = cache.entry("model", make, 1)
    assert json.loads((entry / "manifest.json").read_text())["model.bin"]["sha256"] == cache.sha256(entry / "model.bin")
