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


def lock() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; .+)?", line) for line in pins), "every line of the lock is an exact pin"
    return [Requirement(line) for line in pins]


def version(pin: Requirement) -> str:
    return next(iter(pin.specifier)).version


def test_every_direct_dependency_is_locked_at_the_same_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    locked = {normal(pin.name): (version(pin), pin.marker) for pin in lock()}
    for text in project["dependencies"]:
        requirement = Requirement(text)
        assert [pin.operator for pin in requirement.specifier] == ["=="], f"{text} is not an exact pin"
        assert locked.get(normal(requirement.name)) == (version(requirement), requirement.marker), text


@pytest.mark.parametrize("system", ["Darwin", "Linux", "Windows"])
def test_what_the_locked_packages_ask_for_on_each_system_is_locked_too(system):
    names = {"Darwin": ("darwin", "posix"), "Linux": ("linux", "posix"), "Windows": ("win32", "nt")}[system]
    there = {"platform_system": system, "sys_platform": names[0], "os_name": names[1], "extra": ""}
    here = [pin for pin in lock() if pin.marker is None or pin.marker.evaluate(there)]
    locked = {normal(pin.name): version(pin) for pin in here}
    for pin in (pin for pin in here if pin.marker is None):
        for text in metadata.requires(pin.name) or []:
            asked = Requirement(text)
            if asked.marker is None or asked.marker.evaluate(there):
                found = locked.get(normal(asked.name))
                assert found and asked.specifier.contains(found, prereleases=True), f"{pin.name} asks for {text}"


def test_the_lock_holds_what_is_imported_for_a_known_good_set():
    installed = {pin.name: (version(pin), metadata.version(pin.name).split("+")[0])
                 for pin in lock() if pin.marker is None or pin.marker.evaluate()}  # fmt: skip
    wrong = {name: pair for name, pair in installed.items() if pair[0] != pair[1]}
    assert not wrong


def test_every_python_that_the_project_takes_is_one_that_the_lock_takes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    ours = Requirement(f"x{project['requires-python']}").specifier
    pythons = [f"3.{minor}.{patch}" for minor in range(11, 15) for patch in range(20)]
    for pin in lock():
        if pin.marker is None and (wanted := metadata.metadata(pin.name).get("Requires-Python")):
            theirs = Requirement(f"x{wanted}").specifier
            assert not [one for one in pythons if ours.contains(one) and not theirs.contains(one)], pin


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
