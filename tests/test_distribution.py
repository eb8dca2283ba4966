"""What is uploaded: an sdist that is the whole checkout, so its tests run, and a wheel that is the package only."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

pytestmark = pytest.mark.once

pytest.importorskip("setuptools", minversion="77", reason="what pyproject.toml builds with")

# What setuptools, tests and `make` put beside the files of the checkout.
MADE = re.compile(
    r"^(PKG-INFO|setup\.cfg|\.git)$|\.egg-info/|(^|/)__pycache__/"
    r"|^(\.git|\.venv[^/]*|\.\w+_cache|\.hypothesis|\.benchmarks|build|dist|demo|site|shared)/"
)
BUILD = "import sys\nfrom setuptools import build_meta\nprint(build_meta.build_{}(sys.argv[1]))"


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build an sdist or a wheel, as pip would, with the setuptools that is installed: no network."""
    run = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), str(folder)], cwd=source, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return folder / run.stdout.splitlines()[-1]


def committed(project_dir: Path) -> set[str]:
    """The files of the checkout: those that git knows. Where there is no git, as in an unpacked sdist, all of them."""
    if (project_dir / ".git").exists() and shutil.which("git"):
        run = subprocess.run(["git", "ls-files", "-z"], cwd=project_dir, capture_output=True, text=True, check=False)
        if run.returncode == 0:
            return {name for name in run.stdout.split("\0") if name and (project_dir / name).is_file()}
    return {name for name in files_in(project_dir) if not MADE.search(name)}


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, project_dir) -> Path:
    """A copy of the checkout, because setuptools writes beside what it builds."""
    folder = tmp_path_factory.mktemp("checkout") / "saestore"
    for name in committed(project_dir):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(project_dir / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def sdist(tmp_path_factory, checkout) -> Path:
    return build("sdist", checkout, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist) -> Path:
    """The one folder in the sdist."""
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent, filter="data")
    return sdist.parent / sdist.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, unpacked) -> Path:
    """Built from the sdist, which so has all that is needed for it."""
    return build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


def test_sdist_is_the_whole_checkout_and_nothing_else(project_dir, unpacked):
    files = {name for name in files_in(unpacked) if not MADE.search(name)}
    expected = committed(project_dir)
    assert not expected - files, f"MANIFEST.in leaves out {sorted(expected - files)[:10]}"
    assert not files - expected


def test_tests_run_from_the_sdist(unpacked):
    """Those that read the files beside them; the test above is about all the others."""
    env = os.environ | {"PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--benchmark-disable",
        "tests/test_format_1.py",
    ]
    run = subprocess.run(command, cwd=unpacked, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:]
    assert "passed" in run.stdout


def test_wheel_is_the_typed_package_only(wheel, project_dir):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"saestore"}
    assert "saestore/py.typed" in names
    modules = {path.relative_to(project_dir).as_posix() for path in (project_dir / "saestore").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}


def test_wheel_says_what_it_is(wheel, project_dir):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_string(archive.read(name).decode())
    assert Version(metadata["Version"]) == Version(wheel.name.split("-")[1])
    assert metadata["License-Expression"] == "Apache-2.0"
    labels = {url.split(",")[0] for url in metadata.get_all("Project-URL")}
    assert labels == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert metadata.get_payload().strip() == (project_dir / "README.md").read_text(encoding="utf-8").strip()
    bounded = [
        need for need in metadata.get_all("Requires-Dist") if need.startswith("torch") and "<" in need.split(";")[0]
    ]
    assert not bounded, "constraints.txt is the place to choose a torch"
