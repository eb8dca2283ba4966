"""The command line as a process of its own, in pipes and terminals; its documentation."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cli_stores
import numpy as np
import pytest
from cli_stores import ask, ask_json, paths_in

from saestore.cli import keys, main
from saestore.cli.docs import page
from saestore.cli.output import document
from saestore.stats import STATISTICS


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return cli_stores.image_store(tmp_path_factory.mktemp("cli") / "images.zarr")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return cli_stores.text_store(tmp_path_factory.mktemp("cli") / "texts.zarr")


# Whole processes


def run(*args, env=None, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "saestore", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONUTF8": "1"} | (env or {}),
        **kwargs,
    )


def test_a_process_exits_with_the_status(images):
    assert run("info", "--store", images.path).returncode == 0
    wrong = run("top-samples", "--feature", 99, "--store", images.path)
    assert (wrong.returncode, wrong.stdout, len(wrong.stderr.splitlines())) == (1, "", 1)
    assert run("top-samples", "--store", images.path).returncode == 2


@pytest.mark.once
@pytest.mark.parametrize("words", [["--debug", "info"], ["info", "--debug"]], ids=" ".join)
def test_debug_shows_the_traceback(words, tmp_path):
    result = run(*words, "--store", tmp_path / "none.zarr")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "NotFoundError" in result.stderr


def test_help_imports_nothing_heavy(project_dir):
    """One process shows all of them; it names the first that imports any."""
    script = (
        "import contextlib, sys\nfrom saestore.cli import main\n"
        f"for name in {['', *main.commands]}:\n"
        "    with contextlib.suppress(SystemExit): main([*name.split(), '--help'])\n"
        "    print(name, sorted({'numpy', 'zarr', 'xarray', 'scipy', 'torch', 'numcodecs'} & set(sys.modules)))\n"
        "    if not name: print(sorted(each for each in sys.modules if each.startswith('saestore.cli.')))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=project_dir, capture_output=True, text=True, check=True)
    for name in ("", *main.commands):
        shown, _, result.stdout = result.stdout.partition(f"\n{name} []\n")
        assert "--help" in shown, name
        if not name:  # a line for each command, none of which is imported
            lines = shown[shown.index("Commands:") :].splitlines()[1:]
            assert [line.split()[0] for line in lines] == list(main.commands)
            imported, _, result.stdout = result.stdout.partition("\n")
            assert imported == "['saestore.cli.app']"


@pytest.mark.once
def test_top_samples_of_a_local_folder_imports_no_zarr_and_nothing_that_others_need(project_dir, images):
    script = (
        "import contextlib, sys\nfrom saestore.cli import main\n"
        f"with contextlib.suppress(SystemExit): main(['top-samples', '--feature=1', '--store', {str(images.path)!r}])\n"
        "heavy = {'torch', 'sae_lens', 'pandas', 'xarray', 'scipy', 'zarr', 'asyncio', 'matplotlib', 'ssl', 'http'}\n"
        "heavy |= {'numpy.ma', 'concurrent.futures', 'numcodecs', 'importlib.metadata', 'multiprocessing', 'logging'}\n"
        "heavy |= {'html', 'csv', 'shutil', 'zipfile', 'gzip', 'email', 'tempfile', 'saestore.files', 'saestore.npz'}\n"
        "heavy |= {'saestore.query.where_parser', 'saestore.query.set_table', 'saestore.segment.write'}\n"
        "print(sorted((heavy | {'saestore.activation_set', 'saestore.cli.build'}) & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=project_dir, capture_output=True, text=True, check=True)
    assert "activation" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.once
def test_a_question_to_a_local_folder_imports_neither_zarr_nor_numcodecs(project_dir, images):
    script = (
        f"import saestore, sys\nstore = saestore.open({str(images.path)!r})\nacts = store[next(iter(store))]\n"
        "print(len(acts.top_samples(1)), acts.dense([0]).shape, acts.location)\n"
        "print(sorted({'zarr', 'numcodecs', 'scipy', 'pandas', 'xarray', 'asyncio', 'ssl'} & set(sys.modules)))\n"
        "print(acts.root.store, acts.group.path == acts.path, store.root == acts.root)"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=project_dir, capture_output=True, text=True, check=True)
    answer, imported, group = result.stdout.splitlines()
    assert imported == "[]"
    # The groups are zarr's, at the place that zarr names.
    assert group == f"{answer.split()[-1]} True True"


@pytest.mark.once
def test_a_reader_that_goes_away_is_no_error(tmp_path):
    # More than a pipe holds, so that writing does meet the closed end.
    cli_stores.write_segments(tmp_path / "s.zarr", "Toy/cls/x", np.ones((1, 9000), np.float32), [1])
    command = [sys.executable, "-m", "saestore", "stats", "--csv", "--store", str(tmp_path / "s.zarr")]
    path = str(Path(__file__).parent.parent)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("feature,name,n_active")
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_output_that_the_encoding_lacks_is_replaced(texts):
    env = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}
    result = run("top-samples", "--feature", 0, "-n", 1000, "--store", texts.path, env=env, encoding="latin-1")
    assert result.returncode == 0, result.stderr
    assert "? happy" in result.stdout
    assert "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve" in result.stdout


def in_terminal(columns, *args):
    """What a command writes to a terminal of that width."""
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    ours, theirs = pty.openpty()
    path = str(Path(__file__).parent.parent)
    env = os.environ | {"PYTHONPATH": path, "COLUMNS": str(columns), "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "saestore", *map(str, args)]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=env):
        os.close(theirs)
        out = b""
        while True:
            try:
                out += (more := os.read(ours, 65536))
            except OSError:  # how Linux says that the other end is closed
                break
            if not more:
                break
    os.close(ours)
    return out.decode()


@pytest.mark.once
@pytest.mark.parametrize("columns", [60, 160])
def test_a_table_fits_the_terminal_and_is_bold_there(images, columns):
    out = in_terminal(columns, "top-samples", "--feature", 2, "--store", images.path)
    assert "\x1b[1m" in out
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert max(map(len, plain.splitlines())) <= columns
    assert ("images/a rather long folder name/scene_" in plain) == (columns == 160)
    assert ".jpg" in plain


def test_what_is_no_terminal_gets_no_colour(images):
    assert "\x1b" not in ask("info", store=images) + ask("top-samples", "--feature", 2, store=images)


# The documentation


JSON_COMMANDS = {
    "info": ([], keys.SETS),
    "top-samples": (["--feature", 2], keys.TOP_SAMPLES),
    "top-features": (["--sample", 2], keys.TOP_FEATURES),
    "stats": ([], keys.STATS),
}


@pytest.mark.parametrize("name", JSON_COMMANDS)
def test_the_keys_of_json_are_the_documented_ones(images, name):
    words, documented = JSON_COMMANDS[name]
    document = ask_json(name, *words, store=images)
    for found in document.get("sets", []):
        for free in ("sae", "source", "dropped", "summary"):  # what a build knows, which depends on the build
            found[free] = None
    assert set(paths_in(document)) == set(documented)
    assert main.commands[name].keys == documented


def test_the_keys_of_statistics_are_said_as_the_table_of_statistics_says_them():
    said = {statistic.name: statistic.description.replace("NaN", "null") for statistic in STATISTICS}
    assert {name: keys.STATS[f"rows[].{name}"] for name in said} == said


def test_the_page_is_up_to_date(project_dir):
    written = (project_dir / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m saestore.cli.docs > docs/cli.md"


def test_json_has_null_for_what_is_no_number(capsys):
    document({"a": float("nan"), "b": [np.float32("inf"), np.arange(2)], 3: (None, True, "x")})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, [0, 1]], "3": [None, True, "x"]}
