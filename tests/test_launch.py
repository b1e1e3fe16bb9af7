"""The ways into the sources besides `make`: JupyterLab, VS Code, Binder, a container."""

import json
import os
import re

import pytest

from cbtlib import ROOT

SOURCES = sorted(path.name for path in (ROOT / "notebooks").glob("*.py"))


@pytest.mark.parametrize("name", SOURCES)
def test_jupyterlab_opens_a_source_as_a_notebook_and_saving_it_changes_nothing(name, tmp_path):
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

    source = (ROOT / "notebooks" / name).read_text("utf-8")
    (tmp_path / name).write_text(source, "utf-8")
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)()
    manager.root_dir = str(tmp_path)
    model = manager.get(name, type="notebook", content=True)
    cells = model["content"]["cells"]
    assert model["type"] == "notebook" and {"markdown", "code"} <= {cell["cell_type"] for cell in cells}
    manager.save(model, name)
    body = re.compile(r"\A# ---\n.*?# ---\n", re.DOTALL)  # the header names jupytext's version
    assert body.sub("", (tmp_path / name).read_text("utf-8")) == body.sub("", source)


def test_binder_and_the_container_install_the_locked_pins():
    wanted = (ROOT / ".binder/requirements.txt").read_text("utf-8").split()
    assert wanted[0] == "-r" and (ROOT / ".binder" / wanted[1]).resolve() == ROOT / "requirements.lock"
    python = (ROOT / ".binder/runtime.txt").read_text("utf-8").strip().removeprefix("python-")
    assert tuple(map(int, python.split("."))) >= (3, 11)
    assert os.name == "nt" or (ROOT / ".binder/postBuild").stat().st_mode & 0o111
    docker = (ROOT / "Dockerfile").read_text("utf-8")
    assert "UNTRIED" in docker and f"FROM python:{python}" in docker and "make .venv/installed" in docker
    assert re.search(r"^\.venv/installed:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def test_vs_code_finds_the_environment_and_the_cells():
    settings = json.loads((ROOT / ".vscode/settings.json").read_text("utf-8"))
    assert settings["python.defaultInterpreterPath"] == "${workspaceFolder}/.venv/bin/python"
    assert json.loads((ROOT / ".vscode/extensions.json").read_text("utf-8"))["recommendations"]
    assert all("\n# %%" in (ROOT / "notebooks" / name).read_text("utf-8") for name in SOURCES)
