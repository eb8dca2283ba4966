"""Mutants: small changes to a file of the core, each of which the file's own tests have to notice.

    python tests/mutants.py [--each 10] [--seed 0] [FILE ...]

Prints the mutants that survived and the share that was killed. `make mutants` runs it.
"""

import argparse
import ast
import contextlib
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "saestore"
QUERIES = ["test_queries.py", "test_selection.py"]
# Files of the core, and the tests that are theirs.
OWN_TESTS = {
    "kernels.py": ["test_kernels.py"],
    "stats.py": ["test_stats.py", "test_kernels.py"],
    "sparse_rows.py": ["test_segment.py", "test_write.py"],
    "segment/merge.py": ["test_segment.py", "test_compaction.py"],
    "segment/check.py": ["test_named_mutants.py", "test_verify.py"],
    "query/topk.py": ["test_named_mutants.py", *QUERIES],
    "query/slices.py": QUERIES,
    "query/distribution.py": QUERIES,
    "query/similarity.py": ["test_named_mutants.py", "test_neighbours.py"],
    "query/where.py": ["test_where.py", "test_where_again.py"],
    "scoring/ranks.py": ["test_scores.py"],
    "scoring/metrics.py": ["test_scores.py"],
    "scoring/thresholds.py": ["test_scores.py"],
    "writing/lock.py": ["test_lock.py"],
    "writing/writer.py": ["test_named_mutants.py", "test_compaction.py", "test_replacing.py", "test_durable.py"],
    "writing/commits.py": ["test_named_mutants.py", "test_replacing.py", "test_durable.py", "test_places.py"],
}
SECONDS = 300  # after which a mutant counts as killed: it loops

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
            yield node.lineno, "condition negated", lambda node=node: setattr(node, "test", _negated(node.test))
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


class Mutated(importlib.abc.SourceLoader, importlib.abc.MetaPathFinder):
    """Imports one module from another source."""

    def __init__(self, file: str, source: str) -> None:
        self.name = f"saestore.{file.removesuffix('.py').replace('/', '.')}"
        self.path, self.source = str(PACKAGE / file), source

    def find_spec(self, name, path, target=None):  # noqa: ARG002
        return importlib.util.spec_from_loader(name, self, origin=self.path) if name == self.name else None

    def get_filename(self, name: str) -> str:  # noqa: ARG002
        return self.path

    def get_data(self, path: str) -> bytes:
        if path != self.path:
            raise OSError(path)  # no compiled copy
        return self.source.encode()


def is_killed(file: str, source: str) -> bool:
    """Run a file's tests in a child that has the other source."""
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.setpgid(0, 0)
            sys.meta_path.insert(0, Mutated(file, source))
            import pytest

            tests = [str(TESTS / name) for name in OWN_TESTS[file]]
            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--benchmark-disable",
                       "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # fmt: skip
            os._exit(int(pytest.main([*options, *tests])))
        os._exit(99)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.05)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"below saestore/: {', '.join(OWN_TESTS)}")
    parser.add_argument("--each", type=int, default=10, help="mutants of each file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for module in ("numpy", "scipy.sparse", "zarr", "xarray", "hypothesis", "pytest", "pandas"):
        importlib.import_module(module)  # once, before the children
    total = killed = 0
    for file in options.files or OWN_TESTS:
        source = (PACKAGE / file).read_text()
        if is_killed(file, source):
            sys.exit(f"{file}: its tests fail, or take more than {SECONDS} s, without a mutant")
        count = len(list(mutations(ast.parse(source))))
        chosen = random.Random(options.seed).sample(range(count), min(options.each, count))
        dead = 0
        for number in sorted(chosen):
            tree = ast.parse(source)
            line, what, change = list(mutations(tree))[number]
            change()
            if is_killed(file, ast.unparse(ast.fix_missing_locations(tree))):
                dead += 1
            else:
                print(f"survived: saestore/{file}:{line} {what}", flush=True)
        print(f"{file}: {dead} of {len(chosen)} killed ({count} in all)", flush=True)
        total, killed = total + len(chosen), killed + dead
    print(f"{killed} of {total} mutants killed: {killed / max(1, total):.0%}")


if __name__ == "__main__":
    main()
