"""The system around a run: disk, encoding, shared memory, files, and the sandbox of code tasks."""

from __future__ import annotations

import locale
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dmpo.doctor.base import Check, State, found, readable_bytes
from dmpo.doctor.kernels import Trial

__all__ = ["SystemFacts", "file_system", "free_bytes", "read_system", "system_checks"]

NO_ROOM: Final = 100 * 2**20
LITTLE_ROOM: Final = 5 * 2**30
LITTLE_SHARED: Final = 2**30
FEW_FILES: Final = 1024
"""Below these a run stops, or several processes and large models may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemFacts:
    """What was found of the system."""

    folder: str
    """The current one, where runs are written."""
    folder_free: int | None
    """Bytes free there; None: unknown, as all None below."""
    is_writable: bool
    """Whether it may be written to."""
    encoding: str
    """Of text files where nothing else is said, ``UTF-8``."""
    names: str
    """Encoding of file names."""
    shared: int | None
    """Bytes of /dev/shm."""
    open_files: int | None
    """Most files that a process may hold open; below 0: any number."""


def read_system() -> SystemFacts:
    """Read what the system says; nothing is written."""
    folder = found(Path.cwd)
    return SystemFacts(
        folder=str(folder or "gone"),
        folder_free=None if folder is None else found(lambda: free_bytes(folder)),
        is_writable=folder is not None and os.access(folder, os.W_OK),
        encoding=locale.getpreferredencoding(False),
        names=sys.getfilesystemencoding(),
        shared=found(lambda: shutil.disk_usage("/dev/shm").total),
        open_files=found(_open_files),
    )


def free_bytes(place: Path) -> int:
    """Return the bytes free at a path, or where it would be made."""
    return shutil.disk_usage(_existing(place)).free


def file_system(place: Path, mounts: Iterable[str] | None = None) -> str:
    """Return the kind of the file system at a path, ``ext4``; empty where it is not listed.

    Args:
        place: A path, there or not.
        mounts: Lines as ``/proc/mounts`` has them; None: those.
    """
    if mounts is None:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    real = _existing(place).resolve()
    best, kind = -1, ""
    for line in mounts:
        _, point, system, *_ = line.split(" ")
        mount = Path(point.replace("\\040", " "))
        if real.is_relative_to(mount) and len(mount.parts) > best:
            best, kind = len(mount.parts), system
    return kind


def system_checks(facts: SystemFacts, sandbox: Trial | None) -> tuple[Check, ...]:
    """Return the checks of the system.

    Args:
        facts: What was read.
        sandbox: How running programs of code tasks went; None: not tried.
    """
    checks = [_disk_check(facts), _encoding_check(facts)]
    if facts.shared is not None:
        is_small = facts.shared < LITTLE_SHARED
        checks.append(
            Check(
                area="system",
                name="/dev/shm",
                state="warning" if is_small else "ok",
                detail=readable_bytes(facts.shared)
                + (": too little for several processes with GPUs" if is_small else ""),
                fix="docker run --shm-size=8g" if is_small else "",
            )
        )
    if facts.open_files is not None:
        is_few = 0 <= facts.open_files < FEW_FILES
        checks.append(
            Check(
                area="system",
                name="open files",
                state="warning" if is_few else "ok",
                detail="any number" if facts.open_files < 0 else f"at most {facts.open_files}",
                fix="ulimit -n 4096" if is_few else "",
            )
        )
    if sandbox is not None:
        checks.append(_sandbox_check(sandbox))
    return tuple(checks)


def _disk_check(facts: SystemFacts) -> Check:
    free = facts.folder_free
    state: State = "ok"
    detail = "free space unknown" if free is None else f"{readable_bytes(free)} free"
    if not facts.is_writable:
        state, detail = "failed", "may not be written to"
    elif free is not None and free < LITTLE_ROOM:
        state = "failed" if free < NO_ROOM else "warning"
        detail += ": little for checkpoints"
    return Check(
        area="system",
        name="current folder",
        state=state,
        detail=f"{facts.folder}, {detail}",
        is_needed=True,
        fix="cd /path/with/room" if state != "ok" else "",
    )


def _encoding_check(facts: SystemFacts) -> Check:
    is_utf8 = all(name.replace("-", "").lower() == "utf8" for name in (facts.encoding, facts.names))
    return Check(
        area="system",
        name="encoding",
        state="ok" if is_utf8 else "warning",
        detail=f"{facts.encoding}, of file names {facts.names}",
        fix="" if is_utf8 else "export PYTHONUTF8=1",
    )


def _sandbox_check(trial: Trial) -> Check:
    state: State = trial.state
    detail = trial.detail
    if state == "ok" and not trial.values.get("by_kernel"):
        state, detail = "warning", f"{detail}; the kernel's system-call filter is not to be had"
    return Check(area="system", name="sandbox of code tasks", state=state, detail=detail)


def _existing(place: Path) -> Path:
    place = place.absolute()
    return next(path for path in (place, *place.parents) if path.exists())


def _open_files() -> int:
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return -1 if limit == resource.RLIM_INFINITY else limit
