"""Mutants: small changes to the core, each of which a test that runs the changed line has to notice.

    python tests/mutants.py [--each 10] [--seed 0] [--tests kernels ...] [FILE ...]

Prints the mutants that survived and the share that was killed. `make mutants` runs it. All tests run once, in one
process, which notes the lines that each of them runs. A mutant then meets the tests of its line, the quickest first,
until one fails. It lives in a fork, as new code of functions that are imported already. Tests that start other
processes than forks do not see it.
"""

import argparse
import ast
import contextlib
import gc
import importlib
import itertools
import math
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "saestore"
ROOMS = ("segment", "query", "scoring", "writing")
CORE = [
    "kernels.py", "stats.py", "sparse_rows.py",
    *(f"{room}/{file.name}" for room in ROOMS for file in sorted((PACKAGE / room).glob("[!_]*.py"))),
]  # fmt: skip
# The quickest tests that together run the lines of the core. Which of them a mutant meets is seen, not listed.
OWN_TESTS = [
    "kernels", "stats", "segment", "write", "append", "compaction", "merge_parts", "replacing", "durable",
    "plan", "places", "lock", "import_pipeline", "import_resume", "format_1", "named_mutants", "verify",
    "queries", "selection", "neighbours", "row_choice", "where", "where_again", "knowledge", "analysis_pairs",
    "analysis_contrast", "xarray", "html", "scores", "feature_scores", "levels", "detect", "tables", "labels",
    "labels_from", "annotations",
]  # fmt: skip
SECONDS = 60  # of tests, at most, that a mutant has to survive
# What ends a mutant, which then counts as killed: it loops, takes all memory, or waits for what does not happen.
LIMITS = {resource.RLIMIT_CPU: 3 * SECONDS, resource.RLIMIT_AS: 12 << 30}
PATIENCE = 1800

OTHERS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
SIDES = {"left": "right", "right": "left"}


def mutations(tree: ast.Module) -> Iterator[tuple[int, str, Callable[[], None]]]:
    """Line, description and the change itself, for every change that can be made to a module."""
    for node in _code(tree):
        if isinstance(node, ast.Compare):
            for i, op in enumerate(node.ops):
                yield node.lineno, _names(op), lambda node=node, i=i, op=op: node.ops.__setitem__(i, OTHERS[type(op)]())
        elif isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign) and type(node.op) in OTHERS:
            yield node.lineno, _names(node.op), lambda node=node: setattr(node, "op", OTHERS[type(node.op)]())
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            yield node.test.lineno, "condition negated", lambda node=node: setattr(node, "test", _negated(node.test))
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int):
            value = not node.value if isinstance(node.value, bool) else node.value + 1
            text = f"{node.value} -> {value}"
            yield node.lineno, text, lambda node=node, value=value: setattr(node, "value", value)
        elif isinstance(node, ast.Constant) and node.value in SIDES:
            yield node.lineno, f"not {node.value}", lambda node=node: setattr(node, "value", SIDES[node.value])
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node.lineno, "call removed", lambda node=node: setattr(node, "value", ast.Constant(None))


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that compute: no annotations, decorators, texts or messages of errors."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "exc") or isinstance(node, ast.JoinedStr):
            continue
        for below in value if isinstance(value, list) else [value]:
            if isinstance(below, ast.AST):
                yield from _code(below)


def _names(op: ast.AST) -> str:
    return f"{type(op).__name__} -> {OTHERS[type(op)].__name__}"


def _negated(test: ast.expr) -> ast.expr:
    return (
        test.operand if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) else ast.UnaryOp(ast.Not(), test)
    )


class Core:
    """One file of the core, imported, whose functions and constants can be replaced in place."""

    def __init__(self, file: str) -> None:
        self.path, self.source = str(PACKAGE / file), (PACKAGE / file).read_text()
        self.module = importlib.import_module(f"saestore.{file.removesuffix('.py').replace('/', '.')}")
        gc.unfreeze()  # `conftest.py` froze what is imported, and hid it
        self.functions = [
            f for f in gc.get_objects() if type(f) is FunctionType and f.__code__.co_filename == self.path
        ]
        self.mutants = list(mutations(ast.parse(self.source)))

    def mutate(self, number: int) -> None:
        tree = ast.parse(self.source)
        list(mutations(tree))[number][2]()
        code = compile(ast.fix_missing_locations(tree), self.path, "exec")
        codes, changed = dict(_nested(code)), False
        for function in self.functions:
            new = codes.get(_place(function.__code__), function.__code__)
            changed |= new != function.__code__
            function.__code__ = new
        if not changed:
            self._replace_constants(code)

    def _replace_constants(self, code: CodeType) -> None:
        """Constants of the module, where else they were imported, and defaults of functions."""
        fresh: dict[str, Any] = {"__name__": self.module.__name__, "__file__": self.path}
        exec(code, fresh)
        for name, value in fresh.items():
            old = vars(self.module).get(name)
            if not isinstance(value, ModuleType | FunctionType | type) and name[:2] != "__":
                for module in [m for n, m in sys.modules.items() if n.startswith("saestore")]:
                    if vars(module).get(name) is old:
                        setattr(module, name, value)
        defaults = {
            _place(f.__code__): f
            for f in gc.get_objects()
            if type(f) is FunctionType and f.__code__.co_filename == self.path and f not in self.functions
        }
        for function in self.functions:
            if new := defaults.get(_place(function.__code__)):
                function.__defaults__, function.__kwdefaults__ = new.__defaults__, new.__kwdefaults__


def _place(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def _nested(code: CodeType) -> Iterator[tuple[tuple[str, int], CodeType]]:
    yield _place(code), code
    for below in code.co_consts:
        if isinstance(below, CodeType):
            yield from _nested(below)


class Lines:
    """A plugin: which lines of the core each test runs, and how long it takes.

    What runs before a test counts for every test of its file: fixtures may be shared.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths, self.running = frozenset(paths), ""
        self.run_by: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        start, self.running = time.process_time(), item.nodeid.partition("::")[0]
        sys.settrace(self.trace)
        threading.settrace(self.trace)
        result = yield
        self.seconds[item.nodeid] = time.process_time() - start
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        file, self.running = self.running, item.nodeid
        try:
            return (yield)
        finally:
            self.running = file

    def trace(self, frame, event, arg):  # noqa: ARG002
        return self.line if frame.f_code.co_filename in self.paths else None

    def line(self, frame, event, arg):  # noqa: ARG002
        self.run_by[frame.f_code.co_filename, frame.f_lineno].add(self.running)
        return self.line

    def tests(self, items: list[pytest.Item], path: str, line: int) -> list[pytest.Item]:
        """The tests that run a line, or where none was seen to, the file: the quickest first."""
        ran = self.run_by.get((path, line)) or set().union(*(n for (p, _), n in self.run_by.items() if p == path))
        own = [item for item in items if item.nodeid in ran or item.nodeid.partition("::")[0] in ran]
        own.sort(key=lambda item: self.seconds[item.nodeid])
        total = itertools.accumulate(self.seconds[item.nodeid] for item in own)
        return [item for item, seconds in zip(own, total, strict=True) if seconds < SECONDS]


def failing(session: pytest.Session, items: list[pytest.Item]) -> Iterator[str]:
    """Run tests; the ids of those that fail, each when it does."""
    for item, following in itertools.zip_longest(items, items[1:]):
        failed = session.testsfailed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed > failed:
            yield item.nodeid


def in_fork(work: Callable[[], Any], seconds: float) -> Any:
    """Do a piece of work in a child; returns its result, or None if it dies or takes too long."""
    folder = Path(tempfile.mkdtemp(dir=os.environ["PYTEST_DEBUG_TEMPROOT"]))
    result, end = folder / "result", time.monotonic() + seconds
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.setpgid(0, 0)
            os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
            found = pickle.dumps(work())
            result.write_bytes(found)
        os._exit(0)
    try:
        while not os.waitpid(pid, os.WNOHANG)[0] and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):  # also what the tests started and left
            os.killpg(pid, signal.SIGKILL)
    found = pickle.loads(result.read_bytes()) if result.exists() else None
    shutil.rmtree(folder, ignore_errors=True)
    return found


class Mutants:
    """A plugin that runs the tests of mutants in place of all the tests."""

    def __init__(self, files: list[str], each: int, seed: int) -> None:
        self.files, self.each, self.seed = files, each, seed
        self.lines = Lines([str(PACKAGE / file) for file in files])

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        found = in_fork(lambda: self._look(session), math.inf)
        self.lines.run_by, self.lines.seconds, failed = found
        session.items = [item for item in session.items if item.nodeid not in failed]
        print("left out, as they fail when they are traced:", *failed or ["none"], flush=True)
        totals = defaultdict(lambda: np.zeros(2, int))
        for file in self.files:
            core = Core(file)
            count = len(core.mutants)
            chosen = sorted(random.Random(self.seed).sample(range(count), min(self.each, count)))
            killed = 0
            for number in chosen:
                if self._survives(session, core, number):
                    print(f"survived: saestore/{file}:{core.mutants[number][0]} {core.mutants[number][1]}", flush=True)
                else:
                    killed += 1
            print(f"{file}: {killed} of {len(chosen)} killed ({count} in all)", flush=True)
            for name in (file.partition("/")[0], "all"):
                totals[name] += killed, len(chosen)
        for name, (dead, total) in totals.items():
            print(f"{name}: {dead} of {total} mutants killed: {dead / max(1, total):.0%}", flush=True)
        return True

    def _look(self, session: pytest.Session) -> tuple[dict, dict, list[str]]:
        session.config.pluginmanager.register(self.lines)
        failed = list(failing(session, session.items))
        return dict(self.lines.run_by), self.lines.seconds, failed

    def _survives(self, session: pytest.Session, core: Core, number: int) -> bool:
        def work() -> str:
            for limit, value in LIMITS.items():
                resource.setrlimit(limit, (value, value))
            core.mutate(number)
            own = self.lines.tests(session.items, core.path, core.mutants[number][0])
            return next(failing(session, own), "")

        return in_fork(work, PATIENCE) == ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"below saestore/: {', '.join(CORE)}")
    parser.add_argument("--each", type=int, default=10, help="mutants of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", nargs="+", metavar="NAME", default=OWN_TESTS, help="such as: kernels segment")
    options = parser.parse_args()
    # An example that fails is enough: the smallest one takes long to find.
    phases = [Phase.explicit, Phase.generate]
    settings.register_profile("mutants", settings.get_profile("ci"), phases=phases)
    tests = [str(TESTS / f"test_{name}.py") for name in options.tests]
    arguments = ["-q", "-s", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "--benchmark-disable",
                 "--hypothesis-profile=mutants",
                 "-W", "ignore::pytest.PytestAssertRewriteWarning", *tests]  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and with it the child
    sys.exit(pytest.main(arguments, [Mutants(options.files or CORE, options.each, options.seed)]))


if __name__ == "__main__":
    main()
