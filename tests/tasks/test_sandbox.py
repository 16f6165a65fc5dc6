from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo.tasks import sandbox
from dmpo.tasks.sandbox import Limits, Program, Verdict, run_program, run_programs
from dmpo.tasks.seccomp import seccomp_filter
from dmpo.tasks.unit_tests import unit_tests

SHORT = Limits(wall_seconds=2.0, cpu_seconds=1, memory_bytes=256 * 1024**2)
HURRIED = Limits(wall_seconds=0.7, cpu_seconds=1, memory_bytes=256 * 1024**2)
TWO = "assert f(1) == 2\nassert f(2) == 4"
RIGHT = "def f(x):\n    return 2 * x\n"


def run(code: str, tests: str = TWO, limits: Limits = SHORT) -> Verdict:
    return run_program(Program(code, unit_tests(tests)), limits=limits)


def passed(code: str, tests: str = TWO) -> list[bool]:
    return list(run(code, tests).passed)


# What is right counts


def test_every_assertion_has_a_verdict_of_its_own() -> None:
    verdict = run("def f(x):\n    return 2 if x == 1 else 1 / 0", f"{TWO}\nassert f(1) == 2")
    assert verdict.passed == (True, False, True)
    assert verdict.reason == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        ("import math\ndef f(x):\n    return math.sqrt(x)", "assert abs(f(4) - 2) < 1e-9"),
        (
            "from collections import *\ndef f(s):\n    return Counter(s)",
            "assert f('aa') == {'a': 2}",
        ),
        ("from decimal import Decimal\ndef f():\n    return Decimal(1)", "assert f() == 1"),
        ("def f():\n    return {1: 2}.keys()", "assert f() == {1}"),
        ("def sum(a, b):\n    return a + b - 19", "assert sum(10, 15) == 6"),
        (
            "from collections import namedtuple\nP = namedtuple('P', 'x y')\n"
            "def f():\n    return P(1, 2)",
            "assert f() == (1, 2)",
        ),
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int",
            "assert P(1) == P(1)",
        ),
        (
            "import asyncio\nasync def g():\n    await asyncio.sleep(0.001)\n    return 3\n"
            "def f():\n    return asyncio.run(g())",
            "assert f() == 3",
        ),
        ("def f(x):\n    yield from range(x)", "assert list(f(2)) == [0, 1]"),
        ("if __name__ == '__main__':\n    1 / 0\ndef f():\n    return 1", "assert f() == 1"),
        ("def f():\n    print('x' * 100)\n    return 1", "assert f() == 1"),
        ("import typing, enum, re, json, random, datetime\ndef f(): return 1", "assert f() == 1"),
        ("def f(s):\n    return s[::-1]", "assert f('aé漢😀') == '😀漢éa'"),
    ],
)
def test_honest_program_passes(code: str, tests: str) -> None:
    assert passed(code, tests) == [True]


def test_functions_of_pytest_and_unittest_are_run() -> None:
    tests = """
import pytest, unittest
from solution import f

@pytest.mark.parametrize("x, y", [(1, 2), (2, 4)])
def test_rows(x, y):
    assert f(x) == y

def test_error():
    with pytest.raises(TypeError):
        f()
    assert f(0.1) == pytest.approx(0.2)
    assert f(0.1) == pytest.approx(0.3)

class TestMany:
    def test_wrong(self):
        assert f(1) == 3
        assert f(3) == 6

class TestUnit(unittest.TestCase):
    def test_equal(self):
        self.assertEqual(f(1), 2)
"""
    assert passed(RIGHT, tests) == [True, True, True, False, False, True, True]


def test_assertion_in_a_loop_passes_if_it_holds_in_every_round() -> None:
    tests = "for x in (1, 2, 3):\n    assert f(x) == 2 * x\nfor x in (1, 9):\n    assert f(x) == 2"
    assert passed(RIGHT, tests) == [True, False]


def test_order_of_a_set_is_the_same_every_time() -> None:
    code = "def f():\n    return ''.join({'one', 'two', 'three', 'four'})"
    tests = [f"assert f().startswith({first!r})" for first in ("one", "two", "three", "four")]
    assert passed(code, "\n".join(tests)) == passed(code, "\n".join(tests))


@pytest.mark.parametrize("tests", ["x = 1", "def helper(): pass", "assert f(", "assert 1\0"])
def test_text_without_a_test_is_refused(tests: str) -> None:
    with pytest.raises(ValueError, match=r"^(no test|not Python)"):
        unit_tests(tests)


# Hostile programs

HOSTILE = {
    "forks": "import os\nwhile True:\n    os.fork()",
    "forks in a function": "import os\ndef f(x):\n    while True: os.fork()",
    "starts a program": "import subprocess\nsubprocess.run(['/bin/true'])",
    "starts a shell": "import os\nos.system('true')",
    "becomes another program": "import os\nos.execv('/bin/true', ['true'])",
    "starts a process": "import multiprocessing as m\np = m.Process(target=print)\np.start()",
    "starts threads": "import threading\nwhile True:\n    threading.Thread(target=print).start()",
    "loops": "while True: pass",
    "loops in a function": "def f(x):\n    while True: pass",
    "catches everything": "while True:\n    try:\n        while True: pass\n    except: pass",
    "computes a tower": "x = 9**9**9**9",
    "allocates 10 GB": "x = bytearray(10 * 1024**3)",
    "allocates for ever": "x = []\nwhile True: x.append('a' * 10**6)",
    "recurses for ever": "import sys\nsys.setrecursionlimit(10**9)\ndef g(): g()\ng()",
    "exits": "import sys\nsys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "exits in a function": "import os\ndef f(x): os._exit(0)",
    "raises SystemExit in a function": "def f(x): raise SystemExit(0)",
    "raises KeyboardInterrupt": "def f(x): raise KeyboardInterrupt",
    "kills itself": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "kills its group": "import os, signal\nos.killpg(0, signal.SIGKILL)",
    "leaves its group": "import os\nos.setsid()\nwhile True: pass",
    "aborts": "import os\nos.abort()",
    "ignores signals": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    ),
    "imports ctypes": "import ctypes\ndef f(x): return 2 * x",
    "imports _ctypes": "import _ctypes\ndef f(x): return 2 * x",
    "is nested 10^5 deep": "x = " + "(" * 10**5 + ")" * 10**5,
    "is nested deep with a name": "x = " + "-" * 10**5 + "1",
    "holds NUL": "x = 1\0\ndef f(x): return 2 * x",
    "holds a lone surrogate": "x = '\ud800'\ndef f(x): return 2 * x",
    "is no Python": "def f(x) return 2x",
    "is 10 MB": "x = 1\n" * (10 * 1024**2 // 6),
    "is empty": "",
    "reads /etc/passwd": "x = open('/etc/passwd').read()\ndef f(x): return 2 * x",
    "reads its memory": "x = open('/proc/self/mem', 'rb')\ndef f(x): return 2 * x",
    "reads by a detour": (
        "import os\nx = open(os.__file__ + '/../../../../../../../../../etc/passwd')\n"
        "def f(x): return 2 * x"
    ),
    "lists a folder": "import os\nos.listdir('/')\ndef f(x): return 2 * x",
    "traces": "import sys\nsys.settrace(print)\ndef f(x): return 2 * x",
    "raises its limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))\ndef f(x): return 2 * x"
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_program_passes_nothing_in_bounded_time(name: str) -> None:
    begin = time.monotonic()
    assert run(HOSTILE[name], limits=HURRIED).passed == (False, False)
    assert time.monotonic() - begin < HURRIED.wall_seconds + 2


def test_sleeping_program_is_ended_at_its_time_limit() -> None:
    limits = Limits(wall_seconds=0.5)
    verdict = run("import time\ntime.sleep(60)", limits=limits)
    assert verdict.reason == "the time limit was reached"
    assert verdict.seconds < 2


def test_tests_before_an_endless_loop_keep_their_verdict() -> None:
    code = "def f(x):\n    while x > 1: pass\n    return 2 * x"
    assert run(code, limits=HURRIED).passed == (True, False)


def test_printing_100_megabytes_costs_nothing_but_time() -> None:
    code = "import sys\nfor _ in range(100):\n    sys.stdout.write('x' * 10**6)\n"
    assert passed(code + RIGHT) == [True, True]


WRITES = {
    "open": "open({path!r}, 'w').write('x')",
    "open in the working directory": "open('here', 'w').write('x')",
    "os.open": "import os\nos.open({path!r}, os.O_WRONLY | os.O_CREAT)",
    "io.FileIO": "import io\nio.FileIO({path!r}, 'x')",
    "pathlib": "import pathlib\npathlib.Path({path!r}).touch()",
    "os.mkfifo": "import os\nos.mkfifo({path!r})",
    "os.mkdir": "import os\nos.mkdir({path!r})",
    "os.symlink": "import os\nos.symlink('/etc', {path!r})",
    "sqlite": "import sqlite3\nsqlite3.connect({path!r}).execute('create table t(x)')",
    "dbm": "import dbm\ndbm.open({path!r}, 'c')",
    "shared memory": "import _posixshmem, os\n_posixshmem.shm_open('/x', os.O_CREAT | os.O_RDWR)",
    "shutil": "import shutil\nshutil.copy('/etc/passwd', {path!r})",
}


@pytest.mark.parametrize("name", WRITES)
def test_nothing_is_written(name: str, tmp_path: Path) -> None:
    code = WRITES[name].format(path=str(tmp_path / "new"))
    tried = (
        f"try:\n    {code.replace(chr(10), chr(10) + '    ')}\nexcept BaseException:\n    pass\n"
    )
    assert passed(tried + RIGHT) == [True, True]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "call",
    [
        "os.remove(path)",
        "os.rename(path, path + 'x')",
        "os.truncate(path, 0)",
        "os.chmod(path, 0)",
        "open(path, 'a')",
        "open(path, 'r+b')",
        "os.unlink(path)",
    ],
)
def test_files_that_are_there_stay_as_they_are(call: str, tmp_path: Path) -> None:
    file = tmp_path / "kept"
    file.write_text("kept")
    mode = file.stat().st_mode
    assert passed(f"import os\npath = {str(file)!r}\n{call}\n{RIGHT}") == [False, False]
    assert (file.read_text(), file.stat().st_mode) == ("kept", mode)


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX"])
def test_no_connection_is_made(family: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        address = server.getsockname() if family == "AF_INET" else "\0dmpo"
        code = f"import socket\nsocket.socket(socket.{family}).connect({address!r})\n{RIGHT}"
        assert passed(code) == [False, False]
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_process_is_left() -> None:
    def children() -> set[str]:
        stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
        return {stat.split()[0] for stat in stats if stat.rpartition(")")[2].split()[1] == own}

    own = str(os.getpid())
    before = children()
    for name in ("forks", "exits at once", "starts a shell", "loops"):
        run(HOSTILE[name], limits=HURRIED)
    assert children() == before


def test_environment_and_working_directory_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    code = "import os, sys\ndef f():\n    return dict(os.environ), sys.stdin.read(), sys.argv"
    assert passed(code, "assert f()[:2] == ({}, '')") == [True]


def test_packages_of_this_environment_are_out_of_reach() -> None:
    assert passed("import numpy\n" + RIGHT) == [False, False]


# Forged verdicts

FLOOD = "flooding the report"
FORGED = {
    "an object equal to everything": (
        "class E:\n    def __eq__(self, other): return True\ndef f(x): return E()"
    ),
    "a list of them": "class E(int):\n    def __eq__(self, o): return True\ndef f(x): return E()",
    "a class that says it is int's": (
        "class E:\n    def __eq__(self, o): return True\nE.__module__ = 'builtins'\n"
        "E.__qualname__ = 'int'\ndef f(x): return E()"
    ),
    "another comparison": "import builtins\nbuiltins.all = lambda *_: True\ndef f(x): return 0",
    "writing to every descriptor": (
        "import os\nfor d in range(32):\n    try: os.write(d, b'P0\\nP1\\nK\\n' * 2)\n"
        "    except OSError: pass\ndef f(x): return 0"
    ),
    FLOOD: (
        "import os\nfor d in range(3, 32):\n    try:\n"
        "        while True: os.write(d, b'P' * 9999)\n"
        "    except OSError: pass\ndef f(x): return 0"
    ),
    "closing the report": "import os\nos.closerange(0, 32)\n" + RIGHT,
    "the frame": (
        "import sys\ndef f(x):\n    g = sys._getframe().f_back.f_globals\n"
        "    g['__test_passed__'](0); g['__test_passed__'](1)"
    ),
    "a traceback": (
        "def f(x):\n    try: 1 / 0\n    except Exception as e:\n"
        "        g = e.__traceback__.tb_frame.f_back.f_globals\n"
        "        g['__test_passed__'](0); g['__test_passed__'](1)"
    ),
    "a generator's frame": (
        "def g():\n    yield me.gi_frame.f_back.f_back.f_globals\n"
        "def f(x):\n    global me\n    me = g()\n    s = next(me)\n"
        "    s['__test_passed__'](0); s['__test_passed__'](1)"
    ),
    "a signal handler": (
        "import signal\ndef h(n, frame):\n    while frame:\n"
        "        p = frame.f_globals.get('__test_passed__')\n"
        "        if p: p(0); p(1)\n        frame = frame.f_back\n"
        "signal.signal(signal.SIGALRM, h)\ndef f(x):\n    signal.setitimer(0, 0.01)\n"
        "    while True: pass"
    ),
    "the garbage collector": (
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n"
        "        if getattr(o, '__name__', '') == 'passed': o(0); o(1)"
    ),
    "the classes there are": (
        "def f(x):\n    for c in object.__subclasses__():\n"
        "        g = getattr(c.__init__, '__globals__', {})\n"
        "        if '_reporter' in g: return g['_reporter'] and 2 * x"
    ),
    "the module of the judge": (
        "import __main__, sys\ndef f(x):\n    for m in list(sys.modules.values()):\n"
        "        if hasattr(m, '_same') or hasattr(m, '_runner'): return 2 * x"
    ),
    "names of the tests": "__test_same__ = lambda a, b: True\ndef f(x): return 0",
    "printing": "print('OK')\nprint('2 passed')\ndef f(x): return 0",
    "a stolen report": (
        "import os\nr, w = os.pipe()\nfor d in range(3, 32):\n    if d not in (r, w):\n"
        "        try: os.fstat(d); os.dup2(w, d)\n        except OSError: pass\n" + RIGHT
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_verdict_does_not_count(name: str) -> None:
    tests = "assert all([f(1) == 2])\nassert f(2) == 4" if "comparison" in name else TWO
    assert passed(FORGED[name], tests) == [False, False]


def test_builtins_of_the_tests_are_not_the_programs() -> None:
    code = "import builtins\nbuiltins.len = len = lambda _: 3\ndef f(): return 'ab'"
    assert passed(code, "assert len(f()) == 3\nassert len(f()) == 2") == [False, True]


def test_module_of_tests_may_not_be_replaced_by_a_program_named_pytest() -> None:
    code = "import sys\nsys.modules['pytest'] = sys\ndef f(): return 0"
    tests = "import pytest\nassert f() == pytest.approx(1)\nassert f() == pytest.approx(0)"
    assert passed(code, tests) == [False, True]


def test_audit_hook_cannot_be_added() -> None:
    code = "import sys\nseen = []\nsys.addaudithook(lambda *event: seen.append(event))\n"
    assert passed(f"{code}compile('1', '', 'eval')\ndef f(): return seen", "assert f() == []") == [
        True
    ]


# Several at once


def test_verdicts_are_in_order_and_equal_programs_run_once() -> None:
    tests = unit_tests("assert f() == 1")
    programs = [Program(f"def f(): return {n % 3}", tests) for n in range(12)]
    verdicts = run_programs(programs, limits=SHORT, workers=2)
    assert [verdict.passed[0] for verdict in verdicts] == [n % 3 == 1 for n in range(12)]
    assert verdicts[0] is verdicts[3]


def test_program_that_is_ended_leaves_those_behind_it_alone() -> None:
    tests = unit_tests("assert f() == 1")
    codes = ["def f(): return 1", "while True: pass", "import os\nos._exit(3)", FORGED[FLOOD]]
    programs = [Program(code, tests) for code in (*codes, "def f():\n    return 1")]
    verdicts = run_programs(programs, limits=HURRIED, workers=1)
    assert [verdict.passed for verdict in verdicts] == [(n in (0, 4),) for n in range(5)]
    assert verdicts[2].reason == "it ended with status 3"


def test_programs_see_nothing_of_each_other() -> None:
    tests = unit_tests("assert f() == 0")
    code = "import builtins\ndef f():\n    n = getattr(builtins, 'n', 0)\n    builtins.n = n + 1\n"
    programs = [Program(f"{code}    return n # {n}", tests) for n in range(3)]
    assert all(verdict.passed[0] for verdict in run_programs(programs, workers=1))


def test_sandbox_works_in_threads() -> None:
    found: list[list[bool]] = []
    threads = [threading.Thread(target=lambda: found.append(passed(RIGHT))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[True, True]] * 3


def test_sandbox_works_in_a_daemonic_process() -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(passed(RIGHT)), daemon=True)
    process.start()
    assert queue.get() == [True, True]
    process.join()


needs_filter = pytest.mark.skipif(seccomp_filter() is None, reason="Linux on x86-64 or ARM alone")


@needs_filter
def test_kernel_holds_the_program() -> None:
    assert run(RIGHT).by_kernel


BY_KERNEL_ALONE = """
import os, socket, sys, threading, time
sys.argv = {filter!r}, {folder!r}
exec(open({worker!r}).read())
os.chdir(sys.argv[1])
assert _restrict_system_calls(sys.argv[0])
refused = {{
    "write": lambda: open("new", "w"),
    "append": lambda: open("kept", "a"),
    "update": lambda: open("kept", "r+"),
    "create": lambda: os.open("new", os.O_CREAT | os.O_RDONLY),
    "truncate": lambda: os.truncate("kept", 0),
    "mkdir": lambda: os.mkdir("new"),
    "fifo": lambda: os.mkfifo("new"),
    "remove": lambda: os.remove("kept"),
    "rename": lambda: os.rename("kept", "new"),
    "link": lambda: os.link("kept", "new"),
    "symlink": lambda: os.symlink("kept", "new"),
    "chmod": lambda: os.chmod("kept", 0),
    "chdir": lambda: os.chdir("/"),
    "memory file": lambda: os.memfd_create("x"),
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
    "socket": lambda: socket.socket(),
    "unix socket": lambda: socket.socket(socket.AF_UNIX),
    "limit": lambda: __import__("resource").setrlimit(0, (9, 9)),
    "priority": lambda: os.nice(1),
    "user": lambda: os.setuid(1),
    "terminal": lambda: __import__("termios").tcgetattr(0),
}}
for name, call in refused.items():
    try:
        call()
    except PermissionError:
        continue
    except Exception as error:
        if "not permitted" in str(error) or "not allowed" in str(error):
            continue
        sys.exit(f"{{name}}: {{error!r}}")
    sys.exit(name)
try:
    threading.Thread(target=print).start()
except RuntimeError:
    pass
else:
    sys.exit("thread")
left, right = socket.socketpair()
left.send(b"x")
assert right.recv(1) == b"x"
assert open("kept").read() == "kept"
time.sleep(0.001)
"""


@needs_filter
def test_kernel_refuses_by_itself_what_reaches_outside(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    code = BY_KERNEL_ALONE.format(
        filter=seccomp_filter(), folder=str(tmp_path), worker=str(sandbox.WORKER)
    )
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "kept"


@pytest.mark.parametrize("name", WRITES)
def test_nothing_is_written_without_the_kernels_help(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_filter", lambda: b"")
    code = WRITES[name].format(path=str(tmp_path / "new"))
    tried = (
        f"try:\n    {code.replace(chr(10), chr(10) + '    ')}\nexcept BaseException:\n    pass\n"
    )
    verdict = run(tried + RIGHT)
    assert (verdict.passed, verdict.by_kernel) == ((True, True), False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "forks",
        "starts a program",
        "starts a shell",
        "becomes another program",
        "starts threads",
        "imports ctypes",
        "kills its group",
        "leaves its group",
        "reads /etc/passwd",
        "raises its limits",
    ],
)
def test_hostile_program_passes_nothing_without_the_kernels_help(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_filter", lambda: b"")
    assert run(HOSTILE[name], limits=HURRIED).passed == (False, False)


@settings(max_examples=20, deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_any_text_has_a_verdict(code: str) -> None:
    assert passed(code) == [False, False]
