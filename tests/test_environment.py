"""One set of pins: pyproject.toml, requirements.lock and environment.yml agree."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement

from cbtlib import ROOT


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins), "every line of the lock is an exact pin"
    return {normal(line.split("==")[0]): line.split("==")[1] for line in pins}


def test_every_direct_dependency_is_locked_at_the_same_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    locked = lock()
    for text in project["dependencies"]:
        requirement = Requirement(text)
        pins = [pin for pin in requirement.specifier if pin.operator == "=="]
        assert len(pins) == 1, f"{text} is not an exact pin"
        assert locked.get(normal(requirement.name)) == pins[0].version, text


def test_the_lock_holds_what_is_imported_for_a_known_good_set():
    wrong = {name: (version, metadata.version(name)) for name, version in lock().items()
             if metadata.version(name).split("+")[0] != version}  # fmt: skip
    assert not wrong


def test_every_python_that_the_project_takes_is_one_that_the_lock_takes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    ours = Requirement(f"x{project['requires-python']}").specifier
    pythons = [f"3.{minor}.{patch}" for minor in range(11, 15) for patch in range(20)]
    for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines():
        name = line.partition("==")[0]
        if "==" in line and (wanted := metadata.metadata(name).get("Requires-Python")):
            theirs = Requirement(f"x{wanted}").specifier
            assert not [one for one in pythons if ours.contains(one) and not theirs.contains(one)], line


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
def test_make_sets_up_once_and_again_when_a_pin_changes(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)

    def planned() -> str:
        return subprocess.run(["make", "-n", "book"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "pip" in planned() and "cbtlib book" in planned()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/installed").write_text("200")
    assert "pip" not in planned() and "cbtlib book" in planned()
    later = (tmp_path / ".venv/installed").stat().st_mtime + 10
    os.utime(tmp_path / "requirements.lock", (later, later))
    assert "pip" in planned()


def test_conda_file_installs_the_lock_and_the_project():
    content = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    assert content["channels"] == ["conda-forge"]
    python = next(item for item in content["dependencies"] if isinstance(item, str) and item.startswith("python="))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert Requirement(f"x{project['requires-python']}").specifier.contains(
        python.removeprefix("python=") + ".99"
    )  # the newest patch
    pip = next(item["pip"] for item in content["dependencies"] if isinstance(item, dict))
    assert pip == ["-r requirements.lock", "-e ."]


def test_no_executed_notebook_and_no_large_file_is_tracked():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    files = [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]
    assert not [path for path in files if path.suffix == ".ipynb"]
    assert not [path for path in files if path.stat().st_size > 2_000_000]
