"""A folder that is made once: the cache for what takes long to build, and other folders that must never be half there.

Notable choices:
- An entry is built in a temporary folder beside its place, given a manifest (written last), synced, and renamed: a kill
  or a full disk leaves no entry or a whole one. What a killed run left is removed by the next one.
- A file lock lets parallel first runs wait for the one that builds; the operating system frees it if that one dies.
- An entry whose files do not match its manifest is rebuilt, and the reader is told which file it was.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from cbtlib import CbtError
from cbtlib.writing import make_folder


def root() -> Path:
    """The folder that holds all entries: $CBT_CACHE, or the platform's cache folder."""
    return Path(os.environ.get("CBT_CACHE") or platformdirs.user_cache_dir("cbtlib")).expanduser()


def entry(name: str, build: Callable[[Path], None], megabytes: int) -> Path:
    """The cached folder `name`, filled by `build(folder)` unless it is there whole; `megabytes` is the space it takes.

    Raises CbtError when the disk is too small or the cache cannot be written.
    """
    place = root() / name
    if not damage(place):
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place):
            if damage(place):  # else another process has built it while this one waited
                _build(place, build, megabytes)
    except Exception as error:
        if _is_full(error):
            raise CbtError(_full(place, megabytes)) from error
        refused = isinstance(error, (PermissionError, FileExistsError, NotADirectoryError))
        if refused or getattr(error, "errno", None) == errno.EROFS:
            raise CbtError(f"cannot make {place} ({error}): set CBT_CACHE to a folder that can be written") from error
        raise
    return place


def _is_full(error: Exception) -> bool:
    """Whether a disk or a quota is full, whichever library met it."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    # The Rust writers of weights and tokenizers name the number; PyTorch's only sees that it wrote too little.
    return full or any(sign in str(error) for sign in ("os error 28", "os error 122", "unexpected pos"))


@contextlib.contextmanager
def room(out: Path) -> Iterator[None]:
    """Say in one sentence that the disk is full where `out` is written."""
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        raise CbtError(
            f"no space left while writing {out}: free some on that disk, then give the same command again; a training "
            "run goes on from its last whole checkpoint"
        ) from error


@contextlib.contextmanager
def folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to fill: it becomes `out` when the block ends, and goes when the block fails.

    Raises CbtError when `out` exists, another process is making it, or the disk is full.
    """
    make_folder(out.parent)
    with alone(out.with_name(out.name + ".lock"), f"another process is writing {out}: wait for it"):
        if out.exists():
            raise CbtError(f"{out} exists: take another folder, or remove that one")
        place = out.with_name(out.name + ".part")
        shutil.rmtree(place, ignore_errors=True)  # of a killed process
        try:
            with room(out):
                place.mkdir()
                yield place
                place.rename(out)
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def alone(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file while the block runs, or raise CbtError with the sentence `refusal` when another holds it.

    The operating system frees it when its holder dies.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise CbtError(refusal) from None
    try:
        yield
    finally:
        held.release()


def damage(place: Path) -> str:
    """What is wrong with an entry, in words; "" when it is whole.

    A file whose size and time are as recorded is taken as whole; otherwise its SHA-256 decides.
    """
    try:
        for name, recorded in json.loads((place / "manifest.json").read_text(encoding="utf-8")).items():
            status = (place / name).stat()
            if status.st_size != recorded["size"]:
                return f"{name} has {status.st_size} bytes, not {recorded['size']}"
            if status.st_mtime_ns != recorded["mtime_ns"] and sha256(place / name) != recorded["sha256"]:
                return f"the SHA-256 of {name} is not the recorded one"
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "manifest.json cannot be read"
    return ""


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded(path: Path) -> str:
    """The SHA-256 of a file of an entry, as the manifest beside it has it."""
    return json.loads((path.parent / "manifest.json").read_text(encoding="utf-8"))[path.name]["sha256"]


def _build(place: Path, build: Callable[[Path], None], megabytes: int) -> None:
    # Only the holder of the lock builds this entry, so a temporary folder of its name is left from a killed run.
    for leftover in place.parent.glob(f"{place.name}.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if place.exists():
        print(f"cbt: rebuilding {place}: {damage(place)}", file=sys.stderr)
        shutil.rmtree(place)
    if shutil.disk_usage(place.parent).free < megabytes * 1_000_000:
        raise CbtError(_full(place, megabytes))
    folder = Path(tempfile.mkdtemp(prefix=f"{place.name}.tmp-", dir=place.parent))
    try:
        build(folder)
        manifest = {}
        for path in sorted(folder.iterdir()):
            _sync(path)
            status = path.stat()
            manifest[path.name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256(path)}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        _sync(folder / "manifest.json")
        folder.chmod(0o755)
        _sync(folder)
        folder.rename(place)
        _sync(place.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot sync a folder; its renames are journalled
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(place: Path) -> contextlib.AbstractContextManager:
    lock = FileLock(place.with_name(place.name + ".lock"))
    try:
        return lock.acquire(timeout=0.2)
    except Timeout:
        print(f"cbt: another process is making {place.name}; waiting for it", file=sys.stderr)
        return lock.acquire()


def _full(place: Path, megabytes: int) -> str:
    free = shutil.disk_usage(place.parent).free // 1_000_000
    return (
        f"no space for the model cache: {place} takes {megabytes} MB and its disk has {free} MB free; "
        "free some, or set CBT_CACHE to a folder on a larger disk"
    )
