"""Random addresses for the explorer: `python tests/web_fuzz.py 100000` asks for so many, and reports the slowest."""

import random
import sys
import tempfile
import time
from pathlib import Path

from web_stores import IMAGES, OTHER, TOKENS, explorer_of, make_store

from saestore.web import compare, feature, items, pages, tables
from saestore.web.request import Request

PIECES = ["features", "items", "concepts", "compare", "search", "image", "..", "%2e%2e", ".", "0", "2", "-1", "1e9",
          "9" * 40, "color::red", "middle", "secret.txt", "etc", "passwd", "-", "explorer.css", "\0", "é", "\ud800",
          "'", '"><b>', "Toy", "patch", "x", "Toy/patch/x", "Talk/token/z", "zarr.json", ".json", "index.json",
          ""]  # fmt: skip
VALUES = ["", "0", "1", "-1", "8", "nan", "inf", "1e400", "9" * 400, "top", "random", "silent", "quantile:0.3",
          "quantile:", "range:0,1", "range:nan,1", "range:1e308,-1e308", "split == 'test'", "split ==", "((((",
          "not " * 99, "near", "decoder", "*", "correlation", "1000", "7",
          "middle", "color::red", "Toy/patch/y", "../../etc/passwd", "-max", "name", "item", "sample", "\0", "x" * 5000,
          "cosine", "\ud800", "position in (1, 2)", "feature[1] > 0", "name is known", "🙂", "item:3", "sample:1e9",
          "2*3 + 1", "9*999999999", "Toy/patch/x"]  # fmt: skip
# What each page is asked, beside names that it does not have.
PAGES = {
    "/features": tables.FEATURES, "/features/{}": feature.FEATURE, "/items": items.ITEMS, "/items/{}": items.ITEM,
    "/items/{}/image": ("size",), "/concepts": (), "/concepts/middle": tables.CONCEPT,
    "/concepts/color::red": tables.CONCEPT, "/compare": compare.COMPARE, "": (),
}  # fmt: skip
# Values that fit, by name; the others are drawn from all.
FITTING = {
    "n": ["1", "3", "8"], "limit": ["1", "3"], "offset": ["0", "2"], "level": ["item", "sample"], "size": ["160"],
    "other": [OTHER, IMAGES, TOKENS], "set": [IMAGES, TOKENS], "metric": ["jaccard", "cosine", "npmi"],
    "where": ["split == 'test'", "position > 2", "frac_nonzero > 0.1", "feature[1] > 0.5"], "seed": ["5"],
    "from": ["top", "random", "near", "silent", "quantile:0.3", "range:0,1"], "sort": ["-max", "name", "feature"],
    "match": ["best", "one-to-one"],
    "concept": ["middle", "color::red", "*"], "q": ["five", "2*3 + 1", "7"], "like": ["item:3", "sample:4"],
}  # fmt: skip


def address(rng):
    """A path and parameters: mostly of a page that there is, sometimes of none at all."""
    if rng.random() < 0.2:
        pieces = [
            rng.choice(["", f"/{IMAGES}", f"/{TOKENS}"]),
            *(f"/{rng.choice(PIECES)}" for _ in range(rng.randrange(4))),
        ]
        names = sorted({name for known in PAGES.values() for name in known})
        return "".join(pieces) or "/", {rng.choice(names): rng.choice(VALUES) for _ in range(rng.randrange(3))}
    page, known = rng.choice([*PAGES.items(), ("search", pages.SEARCH)])
    start = "/" if page == "search" else f"/{rng.choice([IMAGES, IMAGES, OTHER, TOKENS])}"
    path = (start + page).format(rng.choice(["0", "2", "5", "7", "9", "99"]))
    names = rng.sample(known, min(len(known), rng.choice([0, 1, 1, 2, 3])))
    query = {name: rng.choice(FITTING.get(name, VALUES) if rng.random() < 0.8 else VALUES) for name in names}
    if rng.random() < 0.05:
        query["zzz"] = rng.choice(VALUES)
    return path + (".json" if rng.random() < 0.2 else ""), query


def fuzz(explorer, rounds, seed):
    """Ask `rounds` random addresses; how many had each status, and the seconds of the slowest."""
    rng, seen, slowest = random.Random(seed), {}, 0.0
    for _ in range(rounds):
        path, query = address(rng)
        start = time.perf_counter()
        answer = explorer.answer(Request(path, query))
        slowest = max(slowest, time.perf_counter() - start)
        assert answer.status < 500, (path, query, answer.body[-300:])
        assert b"TOP-SECRET" not in answer.body, (path, query)
        assert b"Traceback" not in answer.body, (path, query)
        seen[answer.status] = seen.get(answer.status, 0) + 1
    return {**seen, "slowest": slowest}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = fuzz(explorer_of(make_store(Path(folder) / "w")), int(sys.argv[1]), seed=int((sys.argv[2:] or [0])[0]))
        print({**result, "seconds": time.perf_counter() - start})
