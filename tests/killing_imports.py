"""Kill an import at its writes and give the same command again: run as a program, by `test_import_resume.py`.

    python killing_imports.py FOLDER

As `killing.py`, whose jobs these are besides: what is stored must end with the bytes of an import that nothing befell.
"""

import sys
from pathlib import Path

import killing
import scipy.sparse as sp
from effort import choose
from killing import CASE, Job
from strategies import PATH, layout

import saestore

FORMATS = ("csr", "csc")  # read forwards from the file, and by way of a temporary one


def importer(path: Path):
    def run(folder: Path) -> None:
        with layout(CASE):
            saestore.import_activations(
                PATH, path, store=folder, item_ptr=CASE.item_ptr, items=CASE.items, segment_rows=CASE.segment_rows
            )

    return run


if __name__ == "__main__":
    for name in FORMATS:
        print(name, file=sys.stderr)
        source = Path(sys.argv[1]) / f"{name}.npz"
        sp.save_npz(source, CASE.csr.asformat(name))
        killing.JOBS[name] = Job(importer(source), choose(4, 40), goes_on=False)
        killing.main(name, source.with_suffix(""))
