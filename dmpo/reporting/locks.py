"""Whether another process holds a file lock, without getting in its way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["is_locked"]

_HELD = frozenset({errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK})
"""What systems say of a lock that someone else has."""


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock that ``filelock`` takes on a file.

    Nothing is made or written, and a file that may only be read will do. A shared lock is asked for
    and given back at once: a run that is going on does not notice, two who look do not see each
    other, and one that starts at that very instant is all that could be refused.

    Args:
        path: The lock's file; may be missing.

    Returns:
        Whether it is held; False where the system cannot tell.
    """
    try:
        import fcntl
    except ImportError:  # no flock here: whoever asks learns nothing
        return False
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _HELD
    finally:
        os.close(handle)  # gives a lock back that was got
    return False
