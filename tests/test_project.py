"""What the project promises as a whole: what is public, what an import costs, that a checkout runs."""

import json
import pkgutil
import subprocess
import sys
import textwrap
import tomllib

import pytest
from packaging.requirements import Requirement

import saestore

# What users may import from `saestore`. A name added to `saestore.__all__` is a promise: make it here too.
PUBLIC = [
    "ActivationSet",
    "DetectionOptions",
    "FeatureMatches",
    "Histogram",
    "Plan",
    "SimilarFeatures",
    "Store",
    "TopFeatures",
    "TopSamples",
    "__version__",
    "build",
    "check_import",
    "export",
    "import_activations",
    "open",
    "open_plan",
    "plan_build",
]

# Packages that reading and querying must never need, and that take seconds to import.
HEAVY = {"torch", "sae_lens", "transformers", "transformer_lens", "datasets", "matplotlib", "sklearn", "anndata"}
# Packages that queries use, and that answering --help or importing the package has no need of yet.
LATER = {"pandas", "xarray", "zarr", "scipy"}


def imported_by(code: str, cwd) -> set[str]:
    """The top-level packages in sys.modules after `code` ran in a new interpreter."""
    script = f"{code}\nimport sys, json\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    run = subprocess.run([sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_importing_saestore_imports_nothing_heavy(project_dir):
    packages = imported_by("import saestore", project_dir)
    assert "saestore" in packages
    assert not packages & (HEAVY | LATER)


def test_help_imports_nothing_heavy(project_dir):
    code = "import contextlib\nfrom saestore.cli import main\nwith contextlib.suppress(SystemExit): main(['--help'])"
    packages = imported_by(code, project_dir)
    assert "click" in packages
    assert not packages & (HEAVY | LATER)


def test_public_names_are_the_listed_ones():
    assert sorted(saestore.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", saestore.__all__)
def test_public_name_resolves(name):
    assert getattr(saestore, name) is not None


def test_no_public_name_is_a_module():
    """Once anything imported the module, it would stand in the package instead of, say, the function `build`."""
    assert not {module.name for module in pkgutil.iter_modules(saestore.__path__)} & set(saestore.__all__)


@pytest.mark.once
def test_build_without_torch_names_the_extra(project_dir):
    code = """
        import saestore
        from saestore import build
        try:
            build("CLEVR")
        except saestore.errors.MissingDependencyError as error:
            assert "saestore[sae]" in str(error), error
        else:
            raise AssertionError("no error")
        assert "Parameters" in build.__doc__
    """
    without_torch(code, project_dir)


@pytest.mark.once
def test_star_import_works_without_torch(project_dir):
    without_torch(
        "from saestore import *\nimport saestore\nassert set(saestore.__all__) <= set(globals())", project_dir
    )


@pytest.mark.once
def test_help_and_dir_work_without_torch(project_dir):
    code = """
        import contextlib, io, saestore
        assert {"errors", *saestore.__all__} <= set(dir(saestore))
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            help(saestore)
        for name in set(saestore.__all__) - {"__version__"}:
            assert name in shown.getvalue(), name
    """
    without_torch(code, project_dir)


def without_torch(code: str, cwd) -> None:
    """Run `code` in a new interpreter where torch cannot be imported."""
    hidden = "import sys\nsys.modules['torch'] = None  # what `import torch` finds where it is not installed\n"
    imported_by(hidden + textwrap.dedent(code), cwd)


def test_errors_are_an_attribute_of_the_package(project_dir):
    imported_by("import saestore\nassert saestore.errors.NotFoundError.__module__ == 'saestore.errors'", project_dir)


def test_the_package_runs_as_a_module(project_dir):
    run = subprocess.run(
        [sys.executable, "-m", "saestore", "--help"], cwd=project_dir, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("Usage: saestore ")


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        saestore.no_such_name  # noqa: B018


def test_version_is_the_one_of_pyproject(project_dir):
    project = tomllib.loads((project_dir / "pyproject.toml").read_text())["project"]
    assert saestore.__version__ == project["version"]
    assert f"\nversion: {saestore.__version__}\n" in (project_dir / "CITATION.cff").read_text()


def test_cli_py_runs_in_a_checkout(project_dir):
    run = subprocess.run(
        [sys.executable, "cli.py", "--help"], cwd=project_dir, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "top-samples" in run.stdout


def test_all_extra_holds_every_extra_for_users(project_dir):
    extras = tomllib.loads((project_dir / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.name == "saestore"
    assert everything.extras == set(extras) - {
        "all",
        "test",
        "lint",
        "docs",
        "vision",
    }  # vision needs the torchvision of the torch
