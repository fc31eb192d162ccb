"""Changes the pure functions one spot at a time, and runs their tests: a change that none of them notices is a hole.

    make mutants        or        python tests/tools/mutants.py amal/ops/bonus.py …

A mutant is a function with one operator, constant, sign, comparison, name, argument or call changed. Each is put into a
fork of a process that has collected the tests already, so it costs little more than the tests. Survivors that cannot be
told from the original by what it returns are in ``equivalent_mutants.yaml``, with their reasons. Exits with 1 if any
other survives, or if the list names one that is killed or is no more.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType

import pytest
import yaml
from hypothesis import settings

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.yaml")
TESTS = {  # by the beginnings of their names, the quickest first: the first failure ends it
    "amal/algorithms/minibatches.py": [
        *("tests/algorithms/test_minibatches.py", "tests/algorithms/test_updates.py::test_two_updates"),
    ],
    "amal/algorithms/amal/off_policy.py": [
        *("tests/algorithms/amal/test_off_policy.py", "tests/algorithms/test_updates.py::test_two_updates_of_amal"),
    ],
    "amal/algorithms/amal/auxiliaries.py": [
        *("tests/algorithms/amal/test_auxiliaries.py", "tests/algorithms/test_updates.py::test_two_updates_of_amal"),
    ],
    "amal/algorithms/amal/evolved_agents.py": [
        "tests/algorithms/amal/test_auxiliaries.py",
        "tests/algorithms/amal/test_logit_auxiliaries.py",
    ],
    "amal/algorithms/amal/auxiliary_steps.py": ["tests/algorithms/amal/test_auxiliary_steps.py"],
    "amal/algorithms/amal/information.py": [
        *("tests/algorithms/amal/test_information.py", "tests/algorithms/test_updates.py::test_two_updates_of_amal"),
    ],
    "amal/ops/action_values.py": ["tests/ops/test_action_values.py"],
    "amal/ops/bonus.py": ["tests/ops/test_bonus.py"],
    "amal/ops/cem.py": ["tests/ops/test_cem.py"],
    "amal/ops/divergence.py": ["tests/ops/test_divergence.py"],
    "amal/ops/information.py": ["tests/ops/test_information.py"],
    "amal/ops/losses.py": ["tests/ops/test_losses.py"],
    "amal/ops/muon.py": ["tests/ops/test_muon.py"],
    "amal/ops/normalization.py": ["tests/ops/test_normalization.py"],
    "amal/ops/recurrence.py": [  # without those of other numbers of threads, which start processes
        f"tests/ops/test_recurrence.py::{name}" for name in ("test_one", "test_under", "test_each")
    ],
    "amal/ops/returns.py": ["tests/ops/test_returns.py"],
    "amal/study/analysis/scores.py": ["tests/study/analysis/test_scores.py"],
    "amal/study/analysis/statistics.py": [
        *("tests/study/analysis/test_statistics.py", "tests/study/analysis/test_survival.py"),
    ],
    "amal/study/analysis/survival.py": ["tests/study/analysis/test_survival.py"],
}
AT_ONCE = 2
LIMIT = 60  # seconds, after which tests that do not end count as failed

BINARY: dict[type[ast.operator], type[ast.operator]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}
COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    **{ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE], ast.GtE: [ast.Gt, ast.Lt]},
    **{ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is]},
    **{ast.In: [ast.NotIn], ast.NotIn: [ast.In]},
}
PAIRS = [
    *(("min", "max"), ("minimum", "maximum"), ("clamp_min", "clamp_max"), ("amin", "amax"), ("argmin", "argmax")),
    *(("any", "all"), ("zeros", "ones"), ("zeros_like", "ones_like"), ("ceil", "floor"), ("log", "log1p")),
    *(("exp", "expm1"), ("square", "abs"), ("cumsum", "cumprod"), ("sum", "mean"), ("append", "extend")),
]
NAMES = {**dict(PAIRS), **{second: first for first, second in PAIRS}}
MODULES = {"torch", "math", "np", "nn", "F", "stats", "self", "cls"}  # not values, whose calls could be left out
SKIPPED = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)  # what words say, and what is loaded


@dataclass
class Mutant:
    """One field of one node, and what to put there."""

    owner: ast.AST
    field: str
    index: int | None
    new: ast.AST
    statement: ast.stmt
    function: str

    def swap(self) -> None:
        """Put the new node in and the old one into its place; once more undoes it."""
        if self.index is None:
            old = getattr(self.owner, self.field)
            setattr(self.owner, self.field, self.new)
        else:
            nodes = getattr(self.owner, self.field)
            old, nodes[self.index] = nodes[self.index], self.new
        self.new = old

    @property
    def name(self) -> str:
        """The changed statement, of a compound one its head, by which the list of equivalent ones knows it."""
        if isinstance(self.new, ast.Pass):
            return f"{self.function}: without {ast.unparse(self.statement)}"
        if isinstance(self.new, ast.stmt):
            lines = ast.unparse(self.new).splitlines()
        else:
            self.swap()
            lines = ast.unparse(self.statement).splitlines()
            self.swap()
        head = next(line for line in lines if not line.startswith("@"))
        return f"{self.function}: {head if hasattr(self.statement, 'body') else ' '.join(map(str.strip, lines))}"


def mutants_of(tree: ast.Module) -> list[Mutant]:
    """All of them, in a fixed order: of the bodies of functions, not of what is done once when the module is loaded."""
    return list(_within(tree, ast.Pass(), "", inside=False))


def _within(node: ast.AST, statement: ast.stmt, function: str, inside: bool) -> Iterator[Mutant]:
    for owner, field, index, child in _children(node):
        own = child if isinstance(child, ast.stmt) else statement
        if inside:
            yield from (Mutant(owner, field, index, new, own, function) for new in _variants(child))
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            name = f"{function}.{child.name}".removeprefix(".")
            yield from _within(child, own, name, inside or isinstance(child, ast.FunctionDef))
        else:
            yield from _within(child, own, function, inside)


def _children(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """With where they are, and without types, defaults and documentation."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases") or isinstance(value, ast.arguments):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            is_text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if isinstance(child, ast.AST) and not isinstance(child, SKIPPED) and not is_text:
                yield node, field, index, child


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    """What might have been written instead of a node."""
    match node:
        case ast.BinOp(op=op) if type(op) in BINARY:
            yield _changed(node, op=BINARY[type(op)]())
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            yield from (_changed(node, ops=[other()]) for other in COMPARISONS[type(op)])
        case ast.BoolOp(op=op):
            yield _changed(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int())):
            pass  # a dimension counted from the end is often the same from the front; its constant is changed below
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int()):
            yield ast.Constant(node.value + 1)
        case ast.Constant(value=float()):
            yield ast.Constant(node.value * 2 if node.value else 1.0)
        case ast.IfExp(body=body, orelse=orelse):
            yield _changed(node, body=orelse, orelse=body)
        case ast.If(test=test):
            yield _changed(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Call():
            yield from _other_calls(node)
        case ast.AugAssign() | ast.Expr():
            yield ast.Pass()


def _other_calls(call: ast.Call) -> Iterator[ast.AST]:
    """Of another function, with an argument less, and of a method none at all."""
    match call.func:
        case ast.Name(id=name) if name in NAMES:
            yield _changed(call, func=ast.Name(NAMES[name], ast.Load()))
        case ast.Attribute(attr=name) if name in NAMES:
            yield _changed(call, func=_changed(call.func, attr=NAMES[name]))
    for i, keyword in enumerate(call.keywords):
        if keyword.arg != "device":  # which nothing tells apart on a CPU
            yield _changed(call, keywords=call.keywords[:i] + call.keywords[i + 1 :])
    match call.func:
        case ast.Attribute(value=ast.Name(id=name)) if name in MODULES:
            pass
        case ast.Attribute(value=value):
            yield value


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def codes(code: CodeType) -> Iterator[CodeType]:
    """A code object and all inside of it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def functions_of(path: str) -> list[FunctionType]:
    """Those that a module defines, wherever they are held now: in other modules, wrapped, or as methods."""
    gc.unfreeze()  # the command line keeps what it has imported from the collector, which would not tell of it
    functions = [x for x in gc.get_objects() if type(x) is FunctionType]
    return [function for function in functions if function.__code__.co_filename == str(ROOT / path)]


def put_in(path: str, number: int | None, functions: list[FunctionType]) -> None:
    """Give the functions of a module the code of the mutant of that number."""
    tree = ast.parse((ROOT / path).read_text())
    if number is not None:
        mutants_of(tree)[number].swap()
    changed = compile(ast.fix_missing_locations(tree), str(ROOT / path), "exec")
    by_place = {(code.co_qualname, code.co_firstlineno): code for code in codes(changed)}
    for function in functions:
        old = function.__code__
        function.__code__ = by_place.get((old.co_qualname, old.co_firstlineno), old)


class Check:
    """A pytest plugin that runs the tests of each mutant instead of the tests.

    Args:
        modules: whose functions are changed.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = modules
        self.equivalent: dict[str, dict[str, str]] = yaml.safe_load(EQUIVALENT.read_text()) or {}
        self.is_right = True

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.functions = {path: functions_of(path) for path in self.modules}
        gc.freeze()  # else the forks' garbage collectors would copy the memory that they share
        for path in self.modules:
            self._check(
                path, [item for start in TESTS[path] for item in session.items if item.nodeid.startswith(start)]
            )
        return True

    def _check(self, path: str, items: list[pytest.Item]) -> None:
        begin = time.monotonic()
        mutants = mutants_of(ast.parse((ROOT / path).read_text()))
        unchanged, *survived = self._passing(path, [None, *range(len(mutants))], items)
        if not items or not unchanged:
            print(f"{path}: its tests fail without any change")
            self.is_right = False
            return
        living = {mutant.name: mutant for mutant, lives in zip(mutants, survived, strict=True) if lives}
        expected, killed = self.equivalent.get(path, {}), survived.count(False)
        listed, seconds = len(living.keys() & expected), time.monotonic() - begin
        print(f"{path}: {killed} of {len(mutants)} killed, {listed} listed, in {seconds:.0f} s", flush=True)
        unnoticed = [f"{path}:{living[name].statement.lineno}: {name}" for name in living if name not in expected]
        stale = [f"{EQUIVALENT.name}: {path}: killed, or no more: {name}" for name in expected if name not in living]
        print(*unnoticed, *stale, sep="\n", end="\n" if unnoticed + stale else "", flush=True)
        self.is_right &= not unnoticed and not stale

    def _passing(self, path: str, numbers: Sequence[int | None], items: list[pytest.Item]) -> list[bool]:
        """Whether the tests pass with each mutant."""
        passed, running = [False] * len(numbers), {}
        for place in range(len(numbers) + AT_ONCE):
            if place < len(numbers):
                process = os.fork()
                if process == 0:
                    _test(path, numbers[place], self.functions[path], items)
                running[process] = place
            if place >= AT_ONCE - 1 and running:
                process, status = os.wait()
                passed[running.pop(process)] = status == 0
        return passed


def _test(path: str, number: int | None, functions: list[FunctionType], items: list[pytest.Item]) -> None:
    """Ends this process with 0 if the tests pass, else with something else."""
    signal.alarm(LIMIT)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    try:
        put_in(path, number, functions)
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if item.session.testsfailed:
                break
        os._exit(min(items[0].session.testsfailed, 1))
    finally:
        os._exit(2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"some of {', '.join(TESTS)}; by default all")
    modules = parser.parse_args().modules or list(TESTS)
    for name in set(modules) - set(TESTS):
        parser.error(f"no tests are known for {name}; one of {', '.join(TESTS)}")
    os.chdir(ROOT)
    settings.register_profile("mutants", database=None, derandomize=True, max_examples=20)
    settings.load_profile("mutants")
    check = Check(modules)
    files = {start.partition("::")[0] for name in modules for start in TESTS[name]}
    options = ["-s", "--no-header", "--no-summary", "--tb=no", "-p", "no:cacheprovider"]
    code = pytest.main([*sorted(files), *options], plugins=[check])
    return int(code) or int(not check.is_right)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch: its threads do not survive a fork
    sys.exit(main())
