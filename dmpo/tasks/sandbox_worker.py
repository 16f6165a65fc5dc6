"""What runs in the process of an untrusted program, which :mod:`dmpo.tasks.sandbox` starts.

It shuts itself in, runs the program and its tests, and writes the token of each test that passed.
It imports next to nothing, because its start is most of what a short program costs. The program
runs in this very interpreter. So there is no class here (``object.__subclasses__()`` would show it,
and with it these globals), and every function has builtins that the program cannot replace.
"""

from __future__ import annotations

import builtins
import marshal
import os

# Imported before any fork, so that no program pays for it.
import resource
import sys

# Looks at a frame while it is imported, which the guard would refuse.
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

# Functions keep the builtins that stand here when they are made.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]  # mypy thinks of the module

PROGRAM = "solution"
"""The module's name that tests may import the program by."""
REFUSED_MODULES = frozenset(
    [
        "_ctypes",
        "ctypes",
        "_signal",
        "_posixshmem",
        "_posixsubprocess",
        "_sqlite3",
        "_dbm",
        "_gdbm",
        "_curses",
        "readline",
        "termios",
        "faulthandler",
        "_xxsubinterpreters",
        "_xxinterpchannels",
        "_interpreters",
        "_testcapi",
        "_testinternalcapi",
        "_testmultiphase",
        "_testclinic",
    ]
)
PLAIN_EVENTS = frozenset(
    [
        "compile",
        "exec",
        "marshal.loads",
        "object.__setattr__",
        "object.__delattr__",
        "builtins.id",
        "builtins.input",
        "builtins.input/result",
        "array.__new__",
        "pickle.find_class",
        "time.sleep",
        "function.__new__",
        "code.__new__",
        "os.putenv",
        "os.unsetenv",
        "sys.excepthook",
        "sys.unraisablehook",
        "sys._getframemodulename",
        "sys.set_asyncgen_hooks_firstiter",
        "sys.set_asyncgen_hooks_finalizer",
        "sys.set_asyncgen_hook_firstiter",
        "sys.set_asyncgen_hook_finalizer",
    ]
)
"""Events that an honest program raises and that reach nothing outside it."""
FRAMES = frozenset(["tb_frame", "gi_frame", "cr_frame", "ag_frame"])
"""Attributes through which a program would reach the frames of its judge."""
AF_UNIX = 1
HEAP_TYPE = 1 << 9
"""Flag of classes that were made while running; a program cannot make one without it."""
REASON_LENGTH = 200


def serve(control: int) -> None:
    """Fork a process for each order that comes, and say on ``control`` how it ended.

    An order is its length, 8 bytes, and its bytes; the first one is the filter of system calls.
    """
    kernel_filter = _order()
    die_with_parent(kernel_filter)
    _take_away()
    while order := _order():
        if (child := os.fork()) == 0:
            os.close(control)
            main(order, kernel_filter)
        del order
        _, status = os.waitpid(child, 0)
        os.write(control, b"%d\n" % os.waitstatus_to_exitcode(status))


def _order() -> bytes:
    length = int.from_bytes(_read(8), "little")
    return _read(length)


def _read(length: int) -> bytes:
    parts = []
    while length and (part := os.read(0, min(length, 1 << 16))):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def main(order: bytes, kernel_filter: bytes) -> NoReturn:
    """Run one program as ordered."""
    orders = marshal.loads(order)
    report = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    os.environ.clear()
    _limit(orders)
    by_kernel = _restrict_system_calls(kernel_filter)
    os.write(report, b"K\n" if by_kernel else b"N\n")
    program = ModuleType(PROGRAM)
    run = _runner(report, orders)
    _forget_this_module(program)
    sys.addaudithook(_guard(tuple(f"{root.rstrip('/')}/" for root in sys.path)))
    run(program)
    os._exit(0)


def _limit(orders: Mapping[str, Any]) -> None:
    import _signal  # type: ignore[import-not-found]  # `signal` imports enum, which costs more

    limits = {
        "RLIMIT_CPU": orders["cpu_seconds"],
        "RLIMIT_AS": orders["memory_bytes"],
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NOFILE": orders["open_files"],
        "RLIMIT_NPROC": 0,
        "RLIMIT_CORE": 0,
    }
    for name, value in limits.items():
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (AttributeError, ValueError, OSError):
            continue  # this system has no such limit, or a lower one already
    # The parent kills sooner; this is for a parent that is gone.
    _signal.alarm(orders["alarm_seconds"])


def die_with_parent(kernel_filter: bytes) -> None:
    """Have the kernel kill this process when the one that started it ends."""
    if kernel_filter:
        _prctl((1, 9))


def _restrict_system_calls(kernel_filter: bytes) -> bool:
    """Install the kernel's filter, and die with the parent; return whether it holds."""
    if not kernel_filter:
        return False
    die_with_parent(kernel_filter)
    no_new_privileges, set_filter = (38, 1), (22, 2)
    if _prctl(no_new_privileges) != 0:
        return False
    # struct sock_fprog: a number of 16 bits and, aligned to 64, an address.
    with_address = _memory(kernel_filter)
    if with_address is None:
        return False
    instructions, address = with_address
    count = (len(kernel_filter) // 8).to_bytes(8, sys.byteorder)
    held = _memory(count + address.to_bytes(8, sys.byteorder))
    holds = held is not None and _prctl(set_filter, held[1]) == 0
    del instructions
    return holds


def _memory(content: bytes) -> tuple[object, int] | None:
    """Return what keeps a copy of some bytes alive, and its address."""
    try:
        import _ctypes as library
    except ImportError:
        return None
    ctypes: Any = library
    byte = type("byte", (ctypes._SimpleCData,), {"_type_": "B"})
    members = {"_type_": byte, "_length_": len(content)}
    array: Any = type("memory", (ctypes.Array,), members)
    kept = array.from_buffer_copy(content)
    return kept, ctypes.addressof(kept)


def _prctl(arguments: tuple[int, int], address: int | None = None) -> int:
    """Call ``prctl``; return -1 where that cannot be done."""
    try:
        import _ctypes as library

        ctypes: Any = library
        pointer = type("pointer", (ctypes._SimpleCData,), {"_type_": "P"})
        function = ctypes.dlsym(ctypes.dlopen(None, 0), "prctl")
        third = 0 if address is None else pointer(address)
        return int(ctypes.call_function(function, (*arguments, third, 0, 0)))
    except (ImportError, OSError, AttributeError, TypeError, ValueError):
        return -1


def _forget_this_module(program: ModuleType) -> None:
    """Leave nothing of the worker in the table of modules."""
    sys.modules["__main__"] = sys.modules[PROGRAM] = program
    sys.modules.pop("_ctypes", None)


def _take_away() -> None:
    """Replace functions that would do harm without raising an event."""
    no_permission, no_value = _refusal(PermissionError), _refusal(ValueError)
    starter = sys.modules["_posixsubprocess"] = ModuleType("_posixsubprocess")
    starter.fork_exec = no_permission  # type: ignore[attr-defined]
    # Without the kernel's filter they would leave a file, or the process group.
    for module in (os, sys.modules["posix"]):
        for name in ("mkfifo", "mknod", "setsid", "setpgid", "setpgrp"):
            setattr(module, name, no_permission)
    # A handler is given the frame that it interrupts. asyncio is prepared for this error.
    sys.modules["_signal"].signal = no_value  # type: ignore[attr-defined]


def _refusal(error: type[Exception]) -> Callable[..., None]:
    # Made from text, so that its globals are not these.
    namespace: dict[str, Any] = {"error": error}
    exec("def refused(*_, **__):\n    raise error('refused in the sandbox')", namespace)
    return namespace["refused"]  # type: ignore[no-any-return]


def _guard(roots: tuple[str, ...]) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that refuses whatever reaches outside; once added, it stays."""
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def is_library(path: object) -> bool:
        if type(path) is not str or "/../" in path or path.endswith("/.."):
            return False
        return f"{path}/".startswith(roots)

    def is_writing(mode: object, flags: object) -> bool:
        if type(mode) is str and any(letter in mode for letter in "wax+"):
            return True
        return type(flags) is int and flags & writing != 0

    def is_refused(module: object) -> bool:
        if type(module) is not str:
            return False
        return any(part.partition(".")[0] in REFUSED_MODULES for part in module.split("/"))

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in PLAIN_EVENTS:
            return
        if event == "object.__getattr__":
            refused = arguments[1] in FRAMES
        elif event == "import":
            refused = is_refused(arguments[0]) or is_refused(arguments[1])
        elif event == "open":
            refused = is_writing(arguments[1], arguments[2])
            if not refused and not is_library(arguments[0]):
                raise FileNotFoundError(2, "there are no files in the sandbox")
        elif event in ("os.listdir", "os.scandir"):
            if not is_library(arguments[0]):
                raise FileNotFoundError(2, "there are no files in the sandbox")
            refused = False
        elif event == "sys._getframe":
            # The library's own callers are prepared for this error (namedtuple, typing, logging).
            raise ValueError("the call stack is out of reach in the sandbox")
        elif event in ("_thread.start_new_thread", "_thread.start_joinable_thread"):
            raise RuntimeError("can't start new thread: refused in the sandbox")
        elif event == "socket.__new__":
            refused = arguments[1] != AF_UNIX
        elif event == "mmap.__new__":
            refused = arguments[0] != -1
        else:
            refused = True
        if refused:
            raise PermissionError(1, f"{event} is refused in the sandbox")

    return guard


def _runner(report: int, orders: Mapping[str, Any]) -> Callable[[ModuleType], None]:
    """Return what runs the program, then the statements of the tests one by one."""
    passed, failed, settle, explain = _reporter(report, orders["tokens"], orders["at_once"])
    pristine = dict(vars(builtins))

    def tests_namespace(program: ModuleType) -> dict[str, Any]:
        names = vars(program).items()
        shadows = orders["shadows_builtins"]
        namespace = {name: value for name, value in names if shadows or name not in pristine}
        namespace |= {
            "__name__": "tests",
            "__builtins__": pristine,
            "__test_passed__": passed,
            "__test_failed__": failed,
            "__test_same__": _same,
        }
        namespace["__test_call__"] = _caller(namespace, passed, failed)
        if orders["pytest"]:
            stub = sys.modules["pytest"] = ModuleType("pytest")
            vars(stub)["__builtins__"] = pristine
            exec(orders["pytest"], vars(stub))
        return namespace

    def run(program: ModuleType) -> None:
        try:
            exec(compile(orders["code"], PROGRAM, "exec", dont_inherit=True), vars(program))
        except BaseException as error:
            explain(error)
            return
        namespace = tests_namespace(program)
        for statement in orders["statements"]:
            try:
                exec(compile(statement, "tests", "exec", dont_inherit=True), namespace)
            except BaseException as error:
                explain(error)
            settle()

    return run


def _reporter(
    report: int, tokens: tuple[bytes, ...], at_once: tuple[bool, ...]
) -> tuple[Callable[[int], None], Callable[..., None], Callable[[], None], Callable[..., None]]:
    """Return what says that a test passed, that it failed, that a statement ended, and why."""
    good: set[int] = set()
    bad: set[int] = set()
    said: list[str] = []
    write = os.write

    def send(number: int) -> None:
        if number not in bad:
            bad.add(number)  # once
            write(report, b"P%s\n" % tokens[number])

    def passed(number: int) -> None:
        if at_once[number]:
            send(number)
        else:
            good.add(number)

    def failed(number: int, error: BaseException) -> None:
        bad.add(number)
        explain(error)

    def settle() -> None:
        while good:
            send(good.pop())

    def explain(error: BaseException) -> None:
        if said:
            return
        name = vars(type)["__name__"].__get__(type(error))
        try:
            reason = f"{name}: {error!s:.{REASON_LENGTH}}"
        except BaseException:  # whatever an exception's own __str__ may raise
            reason = name
        said.append(reason)
        write(report, b"R%s\n" % ascii(reason)[1:-1][:REASON_LENGTH].encode())

    return passed, failed, settle, explain


def _caller(
    namespace: dict[str, Any], passed: Callable[[int], None], failed: Callable[..., None]
) -> Callable[[int | None, str | None, str], None]:
    """Return what runs a test function, or the method of a test class."""

    def fixtures(function: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        code = getattr(function, "__func__", function).__code__
        found = dict(given)
        for name in code.co_varnames[: code.co_argcount]:
            value: Any = namespace.get(name)
            if name not in found and getattr(value, "__test_fixture__", False):
                made = value(**fixtures(value, {}))
                found[name] = next(made) if type(made).__name__ == "generator" else made
        return found

    def run(function: Any, given: Mapping[str, Any]) -> None:
        result = function(**fixtures(function, given))
        if type(result).__name__ == "coroutine":
            import asyncio

            asyncio.run(result)

    def run_all(owner: str | None, name: str) -> None:
        cases: Any
        if owner is None:
            function = namespace[name]
            cases = getattr(function, "__test_cases__", ({},))
            for given in cases:
                run(function, given)
            return
        cls = namespace[owner]
        is_unittest = hasattr(cls, "assertEqual")
        before, after = (
            ("setUp", "tearDown") if is_unittest else ("setup_method", "teardown_method")
        )
        if is_unittest:
            cls.setUpClass()
        cases = getattr(getattr(cls, name), "__test_cases__", ({},))
        for given in cases:
            instance = cls(name) if is_unittest else cls()
            if hasattr(instance, before):
                getattr(instance, before)()
            run(getattr(instance, name), given)
            if hasattr(instance, after):
                getattr(instance, after)()

    def call(number: int | None, owner: str | None, name: str) -> None:
        try:
            run_all(owner, name)
        except BaseException as error:
            if number is None:
                raise
            failed(number, error)
        else:
            if number is not None:
                passed(number)

    return call


def _same(left: object, right: object) -> bool:
    """Return ``left == right``, unless that comes from an ``__eq__`` of the program's own.

    Where one side is made of the language's and the library's types alone and the other is not,
    they are different whatever the other says of itself. Of two objects of its own kind a
    program may say what it likes.
    """
    if not bool(left == right):
        return False
    return _is_plain(left) == _is_plain(right)


def _is_plain(value: object) -> bool:
    left: list[Any] = [value]
    seen: set[int] = set()
    while left:
        each = left.pop()
        bases = vars(type)["__mro__"].__get__(type(each))
        if not _is_library(next(base for base in bases if "__eq__" in _members(base))):
            return False
        if id(each) in seen:
            continue
        if dict in bases:
            seen.add(id(each))
            for pair in dict.items(each):
                left.extend(pair)
        for container in (list, tuple, set, frozenset):
            if container in bases:
                seen.add(id(each))
                left.extend(container.__iter__(each))
    return True


def _is_library(cls: type) -> bool:
    if not vars(type)["__flags__"].__get__(cls) & HEAP_TYPE:
        return True
    module = _members(cls).get("__module__")
    if type(module) is not str or module in (PROGRAM, "__main__", "tests"):
        return False
    found = sys.modules.get(module)
    return found is not None and vars(found).get(vars(type)["__qualname__"].__get__(cls)) is cls


def _members(cls: type) -> Mapping[str, Any]:
    return vars(type)["__dict__"].__get__(cls)  # type: ignore[no-any-return]
