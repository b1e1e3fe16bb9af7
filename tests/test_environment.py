"""One set of pins: pyproject.toml, requirements.lock and environment.yml agree."""

import re
import subprocess
import tomllib

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
    from importlib import metadata

    wrong = {name: (version, metadata.version(name)) for name, version in lock().items()
             if metadata.version(name).split("+")[0] != version}  # fmt: skip
    assert not wrong


def test_conda_file_installs_the_lock_and_the_project():
    content = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    assert content["channels"] == ["conda-forge"]
    python = next(item for item in content["dependencies"] if isinstance(item, str) and item.startswith("python="))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert Requirement(f"x{project['requires-python']}").specifier.contains(python.removeprefix("python=") + ".0")
    pip = next(item["pip"] for item in content["dependencies"] if isinstance(item, dict))
    assert pip == ["-r requirements.lock", "-e ."]


def test_no_executed_notebook_and_no_large_file_is_tracked():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    files = [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]
    assert not [path for path in files if path.suffix == ".ipynb"]
    assert not [path for path in files if path.stat().st_size > 2_000_000]
