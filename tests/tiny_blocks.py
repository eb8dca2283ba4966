"""Every block constant of the package as small as 3, so that small inputs take all the borders between blocks.

`pytest --tiny-blocks FILES` runs tests under it, and `make test` does so with the brute-force tests.
"""

import importlib
import inspect
import pkgutil
import re

ROOMS = ("query", "scoring", "segment", "writing", "detection", "diagnostics", "tables", "labels", "verify", "interop")
# Names of constants that say how much is worked on at a time. What is not among them is a limit or a file's layout.
BLOCK = re.compile(
    r"_?(BLOCK|BLOCKS?_\w+|BATCH|PIECE|\w*CELLS|CACHED|HELD|ROWS|ENTRIES|WIDTH|BUFFER_ROWS|WORTH_THREADS)"
)
SMALL = 3


def shrink() -> list[str]:
    """Set the constants; returns their names."""
    changed = []
    for module in _modules():
        for name, value in list(vars(module).items()):
            if BLOCK.fullmatch(name) and isinstance(value, int) and value > SMALL:
                setattr(module, name, SMALL)
                changed.append(f"{module.__name__}.{name}")
        for function in _functions(module):
            for name in ("block", "block_rows", "buffer_rows"):
                _shrink_default(function, name)
    return changed


def _modules():
    for room in ROOMS:
        package = importlib.import_module(f"saestore.{room}")
        yield package
        for info in pkgutil.iter_modules(getattr(package, "__path__", [])):
            try:
                yield importlib.import_module(f"{package.__name__}.{info.name}")
            except ImportError:
                continue  # of an optional package that is not installed


def _functions(module):
    for value in vars(module).values():
        if inspect.isfunction(value):
            yield value
        elif inspect.isclass(value) and value.__module__ == module.__name__:
            yield from (f for f in vars(value).values() if inspect.isfunction(f))


def _shrink_default(function, name: str) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY and p.default is not p.empty]
    defaults = list(function.__defaults__ or ())
    if name in positional and isinstance(defaults[positional.index(name)], int):
        defaults[positional.index(name)] = SMALL
        function.__defaults__ = tuple(defaults)
    keywords = function.__kwdefaults__ or {}
    if isinstance(keywords.get(name), int):
        function.__kwdefaults__ = {**keywords, name: SMALL}
