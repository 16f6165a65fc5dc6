"""Test text taken apart, so that each assertion in it is a test with a verdict of its own.

An assertion is an ``assert``, a ``with pytest.raises(…)``, or a whole test function that holds
neither (a method of :class:`unittest.TestCase`, say). It passes where it was reached at least once
and never failed; the assertions after a failed one run as well.
"""

from __future__ import annotations

import ast
import builtins
import functools
from dataclasses import dataclass

__all__ = ["UnitTests", "check_unit_tests", "unit_tests"]

BUILTINS = frozenset(dir(builtins))
PASSED, FAILED, SAME, CALL = "__test_passed__", "__test_failed__", "__test_same__", "__test_call__"
ERROR = "__test_error__"
HELPERS = frozenset({PASSED, FAILED, SAME, CALL, ERROR})


@dataclass(frozen=True, slots=True)
class UnitTests:
    """Test text in the form that the sandbox runs."""

    statements: tuple[str, ...]
    """Source of the statements, which are run one after the other whatever becomes of each."""
    at_once: tuple[bool, ...]
    """Per test: whether it runs once, so that passing is final; others may fail in a later round
    of their loop and are known when the statement around them has ended."""
    shadows_builtins: bool
    """Whether a name that is also a builtin's means the program's own: where the tests call
    nothing else of the program (``assert sum(10, 15) == 6``)."""

    @property
    def num_tests(self) -> int:
        """How many verdicts there are."""
        return len(self.at_once)


@functools.lru_cache(maxsize=65536)
def unit_tests(text: str) -> UnitTests:
    """Take a test text apart. It is parsed, never run.

    Raises:
        ValueError: If it is not Python, or holds no test.
    """
    tree = _parsed(text)
    shadows = _calls_builtins_alone(tree)
    marker = _Marker()
    body = [marker.visit(statement) for statement in tree.body]
    calls = [call for statement in body for call in _calls(statement, marker)]
    futures = [ast.unparse(each) for each in body if _is_future(each)]
    statements = [
        "\n".join([*futures, ast.unparse(each)]) for each in [*body, *calls] if not _is_future(each)
    ]
    return UnitTests(tuple(statements), tuple(marker.at_once), shadows)


def check_unit_tests(text: str) -> None:
    """Refuse what :func:`unit_tests` refuses, in less time.

    Raises:
        ValueError: See there.
    """
    _parsed(text)


def _parsed(text: str) -> ast.Module:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "nested too deep"
        raise ValueError(f"not Python: {reason}") from error
    if not any(_is_assertion(node) for node in ast.walk(tree)) and not any(map(_tests, tree.body)):
        raise ValueError("no test: neither an assert nor a test function")
    return tree


def _is_assertion(node: ast.AST) -> bool:
    if isinstance(node, ast.With):
        return any(_is_raises(item.context_expr) for item in node.items)
    return isinstance(node, ast.Assert)


class _Marker(ast.NodeTransformer):
    """Numbers the assertions and has each report how it went."""

    def __init__(self) -> None:
        self.at_once: list[bool] = []
        self._repeated = 0

    def number(self, *, at_once: bool) -> int:
        self.at_once.append(at_once)
        return len(self.at_once) - 1

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.test = _Comparisons().visit(node.test)
        return self._reported([node])

    def visit_With(self, node: ast.With) -> ast.AST:
        return self._reported([node]) if _is_assertion(node) else self.generic_visit(node)

    def visit_For(self, node: ast.For) -> ast.AST:
        return self._visit_repeated(node)

    def visit_While(self, node: ast.While) -> ast.AST:
        return self._visit_repeated(node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        return self._visit_repeated(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        # A function may be called more than once; a test without parameters is not.
        return self.generic_visit(node) if _runs_once(node) else self._visit_repeated(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._visit_repeated(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    def _visit_repeated(self, node: ast.AST) -> ast.AST:
        self._repeated += 1
        try:
            return self.generic_visit(node)
        finally:
            self._repeated -= 1

    def _reported(self, body: list[ast.stmt]) -> ast.AST:
        number = self.number(at_once=not self._repeated)
        failed = _statement(f"{FAILED}({number}, {ERROR})")
        handler = ast.ExceptHandler(type=_expression("BaseException"), name=ERROR, body=[failed])
        passed = _statement(f"{PASSED}({number})")
        return ast.Try(body=body, handlers=[handler], orelse=[passed], finalbody=[])


class _Comparisons(ast.NodeTransformer):
    """Turns ``a == b`` into a comparison that a class equal to everything does not pass."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) > 1 or not isinstance(node.ops[0], ast.Eq):
            return node
        name = ast.Name(id=SAME, ctx=ast.Load())
        return ast.Call(func=name, args=[node.left, node.comparators[0]], keywords=[])


def _tests(statement: ast.stmt) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the test functions that a statement defines: itself, or the methods of a class."""
    if isinstance(statement, ast.ClassDef):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        found = [each for each in statement.body if isinstance(each, kinds)]
    elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        found = [statement]
    else:
        found = []
    return [each for each in found if each.name.startswith("test")]


def _calls(statement: ast.stmt, marker: _Marker) -> list[ast.stmt]:
    owner = statement.name if isinstance(statement, ast.ClassDef) else None
    calls = []
    for function in _tests(statement):
        silent = not any(_reports(node) for node in ast.walk(function))
        number = marker.number(at_once=False) if silent else None
        calls.append(_statement(f"{CALL}({number}, {owner!r}, {function.name!r})"))
    return calls


def _reports(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == PASSED


def _runs_once(node: ast.FunctionDef) -> bool:
    methods = [each.arg for each in node.args.args if each.arg != "self"]
    return node.name.startswith("test") and not methods and not node.decorator_list


def _is_raises(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    return ast.unparse(node.func) in ("raises", "pytest.raises")


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _calls_builtins_alone(tree: ast.Module) -> bool:
    loaded: set[str] = set()
    bound = set(HELPERS)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.ImportFrom) and node.module == "solution":
            return False  # what the program defines is imported by name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound.update((each.asname or each.name).partition(".")[0] for each in node.names)
    return not (loaded - bound - BUILTINS)


def _statement(text: str) -> ast.stmt:
    return ast.parse(text).body[0]


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body
