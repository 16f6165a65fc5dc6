"""A Linux system-call filter under which a program computes and does nothing else.

The filter is a list: what is on it is allowed, everything else fails with EPERM. It needs no
privileges. It allows memory, files opened for reading, clocks, pipes that are open already, and a
pair of sockets connected to each other, which :mod:`asyncio` cannot do without; no file is opened
for writing, created, renamed or deleted, no other socket made, no process or thread begun, no
signal sent, no limit raised. Numbers are from the kernel's tables for 64-bit x86 and ARM.
"""

from __future__ import annotations

import platform
import struct
import sys

__all__ = ["seccomp_filter"]

LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
"""BPF instructions: load a word, jump if equal, jump if any bit is set, return."""
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000
"""Allow; fail with EPERM; kill the process."""
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Byte offsets in ``struct seccomp_data``."""
WRITING = 0o3 | 0o100 | 0o1000 | 0o2000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND: the same numbers on both architectures."""
ANYTHING = 0xFFFFFFFF
X32 = 0x40000000
"""Bit that marks a call of x86's other 64-bit interface, whose numbers mean other calls."""

# name: (x86_64, aarch64); None where the architecture has no such call.
ALLOWED: dict[str, tuple[int | None, int]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "stat": (4, 79),
    "fstat": (5, 80),
    "lstat": (6, 79),
    "poll": (7, 73),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "writev": (20, 66),
    "access": (21, 48),
    "pipe": (22, 59),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "dup": (32, 23),
    "dup2": (33, 24),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "recvfrom": (45, 207),
    "socketpair": (53, 199),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "exit": (60, 93),
    "uname": (63, 160),
    "fcntl": (72, 25),
    "getcwd": (79, 17),
    "readlink": (89, 78),
    "gettimeofday": (96, 169),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "getdents64": (217, 61),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "epoll_wait": (232, 22),
    "epoll_ctl": (233, 21),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "pselect6": (270, 72),
    "ppoll": (271, 73),
    "epoll_pwait": (281, 22),
    "epoll_create1": (291, 20),
    "dup3": (292, 24),
    "pipe2": (293, 59),
    "getrandom": (318, 278),
    "statx": (332, 291),
    "faccessat2": (439, 439),
}
OPEN, OPENAT = (2, None), (257, 56)
SENDTO = (44, 206)
PRLIMIT = (302, 261)
IOCTL = (16, 29)
FIONBIO = 0x5421
"""Makes a socket not wait: the one request to a device that is allowed."""
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7), "arm64": (1, 0xC00000B7)}


def seccomp_filter() -> bytes | None:
    """Return the filter as the kernel reads it; None where there is none for this machine."""
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        return None
    if struct.calcsize("P") != 8:
        return None
    column, architecture = ARCHITECTURES[platform.machine()]
    program = [
        _instruction(LOAD, ARCHITECTURE),
        _instruction(EQUAL, architecture, then=1),
        _instruction(RETURN, KILL),
        _instruction(LOAD, NUMBER),
        _instruction(ANY_BIT, X32, otherwise=1),
        _instruction(RETURN, REFUSE),
    ]
    numbers = {number for row in ALLOWED.values() if (number := row[column]) is not None}
    for number in sorted(numbers):
        program += _case(number, [_instruction(RETURN, ALLOW)])
    # A call whose flags are its second or third argument is allowed where they only read.
    program += _case(OPEN[column], _unless(1, WRITING))
    program += _case(OPENAT[column], _unless(2, WRITING))
    # Without an address: only to the other end of a pair.
    program += _case(SENDTO[column], _unless(4, ANYTHING))
    # Reading a limit, not setting one.
    program += _case(PRLIMIT[column], _unless(2, ANYTHING))
    program += _case(IOCTL[column], _if_equal(1, FIONBIO))
    return b"".join([*program, _instruction(RETURN, REFUSE)])


def _instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def _case(number: int | None, body: list[bytes]) -> list[bytes]:
    """Return what runs ``body``, which returns, for one call and is passed over for others."""
    if number is None:
        return []
    return [_instruction(EQUAL, number, otherwise=len(body)), *body]


def _unless(argument: int, bits: int) -> list[bytes]:
    """Return what refuses a call if any of these bits of an argument is set."""
    low = ARGUMENTS + 8 * argument
    high_bits = ANYTHING if bits == ANYTHING else 0
    return [
        _instruction(LOAD, low + 4),
        _instruction(ANY_BIT, high_bits, then=2),
        _instruction(LOAD, low),
        _instruction(ANY_BIT, bits, otherwise=1),
        _instruction(RETURN, REFUSE),
        _instruction(RETURN, ALLOW),
    ]


def _if_equal(argument: int, value: int) -> list[bytes]:
    """Return what allows a call if the low half of an argument is ``value``."""
    return [
        _instruction(LOAD, ARGUMENTS + 8 * argument),
        _instruction(EQUAL, value, otherwise=1),
        _instruction(RETURN, ALLOW),
        _instruction(RETURN, REFUSE),
    ]
