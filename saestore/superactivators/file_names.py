"""Where the pipeline keeps its files, and what their names say of the samples and the SAE in them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import existing_folder, split_member
from saestore.superactivators import SCRATCH
from saestore.superactivators.chunk_lists import INFO_SUFFIX
from saestore.superactivators.datasets import Dataset
from saestore.superactivators.unit_mapping import mapping_name

_SPARSE = "SAE_Activations_Sparse"
_SCOPES = {"image": "clipscope", "text": "gemmascope"}
GRID = 256  # patches of an image: 16 x 16
# Of the inputs that the pipeline made its files for: the size of an image, or that there are texts.
SUFFIXES = {"image": "_inputsize_(224, 224).pt", "text": "_inputsize_('text', 'text2').pt"}
TOKEN_COUNTS = "token_counts" + SUFFIXES["text"]

# The files of texts say "patch" where tokens are meant.
_BASES = {
    ("image", "patch"): "CLIP_SAE_patch_embeddings_percentthrumodel_92",
    ("image", "cls"): "CLIP_SAE_cls_embeddings_percentthrumodel_92",
    ("text", "token"): "Gemma_SAE_patch_embeddings_percentthrumodel_81",
    ("text", "cls"): "Gemma_SAE_cls_embeddings_percentthrumodel_81",
}
_NAME = re.compile(r"(?P<scope>clipscope|gemmascope)_(?P<type>patch|cls)_(?P<kind>sparse|filtered|dense)")
_SAES: dict[str, dict[str, Any]] = {
    "clipscope": {"name": "clip-scope-22", "architecture": "topk", "d_sae": 1 << 16, "layer": 22},
    "gemmascope": {"name": "gemma-scope-9b-34-16k", "architecture": "jumprelu", "d_sae": 1 << 14, "layer": 34},
}

Folder = str | os.PathLike[str] | None


@dataclass(frozen=True)
class PipelineName:
    """The parts of the name of a file of activations."""

    # ``clipscope`` or ``gemmascope``; ``patch`` (tokens too) or ``cls``; ``sparse``, ``filtered`` or ``dense``.
    scope: str
    sample_type: str
    kind: str

    @classmethod
    def of(cls, base: str) -> PipelineName | None:
        """Read the name of a file; None where it is not a name of that pipeline."""
        match = _NAME.match(base)
        return None if match is None else cls(match["scope"], match["type"], match["kind"])

    @property
    def sae(self) -> dict[str, Any]:
        """What is known of the SAE."""
        return dict(_SAES[self.scope])

    def check(self, sample_type: str, path: str) -> None:
        """Refuse CLS rows as patches, and the other way round."""
        if (self.sample_type == "cls") != (sample_type == "cls"):
            raise InvalidInputError(
                f"{path} holds {self.sample_type} samples by its name, and the set is to be of {sample_type} samples; "
                f"name the set DATASET/{'cls' if self.sample_type == 'cls' else 'patch (or token)'}.",
                code="wrong-sample-type",
            )

    def beside(self, path: Path) -> Path | None:
        """The sparse file (or list of chunks) of the same samples, where the pipeline has it."""
        files = self._sparse_files(path.parent.parent.parent / _SPARSE / path.parent.name)
        return files[0] if len(files) == 1 else None

    def _sparse_files(self, folder: Path) -> list[Path]:
        return [
            file
            for file in sorted(folder.glob(f"{self.scope}_{self.sample_type}_sparse*"))
            if file.name.endswith(INFO_SUFFIX) or (file.suffix == ".pt" and "_chunk_" not in file.name)
        ]

    def find(self, dataset: str, data: Folder = None) -> Path:
        """Find the sparse file, or list of chunks, of a data set."""
        folders = [root / _SPARSE / dataset for root in data_roots(data)]
        files = next((files for folder in folders if (files := self._sparse_files(folder))), [])
        if len(files) == 1:
            return files[0]
        wanted = f"{self.scope}_{self.sample_type}_sparse*"
        if files:
            raise NotFoundError(
                f"{files[0].parent} has several files {wanted}: {', '.join(file.name for file in files)}; give the "
                "path of one of them",
                code="ambiguous-path",
            )
        searched = " nor ".join(map(str, folders)) or f"{_SPARSE}/{dataset} (set {SCRATCH}, or give --data)"
        raise NotFoundError(f"no {wanted} of {dataset} in {searched}; give its path", code="no-activations")

    def mapping(self, path: Path) -> Path | None:
        """The unit mapping of a filtered or dense file, None where there is none."""
        name = mapping_name(f"{self.scope}_{self.sample_type}_filtered")
        folders = (path.parent, path.parent.parent.parent / "SAE_Activations_Filtered" / path.parent.name)
        return next((folder / name for folder in folders if (folder / name).is_file()), None)


def data_roots(data: Folder = None) -> list[Path]:
    """Folders with ``Embeddings/``, ``Data/`` and ``GT_Samples/``, in the order in which they are searched."""
    if data is not None:
        existing_folder(data)
    return [Path(each) for each in (data, os.environ.get(SCRATCH)) if each]


def find_embeddings(dataset: Dataset, sample_type: str, data: Folder = None) -> Path | str:
    """Find the embeddings of a known data set: in ``Embeddings/`` of `data`, else of ``$SAESTORE_SCRATCH``."""
    from saestore.embeddings.opening import locate

    dataset.check_sample_type(sample_type)
    base = _BASES[dataset.modality, sample_type]
    given = dataset.embeddings.get(sample_type)
    if given is not None:
        if "://" not in given:
            locate(split_member(given)[0])
        return given
    roots = data_roots(data)
    if not roots:
        raise NotFoundError(
            f"no embeddings given for {dataset.name}: give --embeddings, or set {SCRATCH} or --data to the folder "
            f"that holds Embeddings/{dataset.name}/{base}*",
            code="no-embeddings",
        )
    missing = []
    for root in roots:
        path = root / "Embeddings" / dataset.name / base
        try:
            return locate(path)
        except NotFoundError as error:
            missing.append(str(error))
            if any(path.parent.glob(f"{base}*")):
                break  # several there: nobody said which, and others elsewhere may be of another build
    raise NotFoundError(f"{'; '.join(missing)}. Put them there, or give --embeddings", code="no-embeddings")


def find_activations(dataset: Dataset, sample_type: str, data: Folder = None) -> Path:
    """Find the sparse activations of a known data set: ``SAE_Activations_Sparse/<dataset>/``."""
    dataset.check_sample_type(sample_type)
    kind = "cls" if sample_type == "cls" else "patch"
    return PipelineName(_SCOPES[dataset.modality], kind, "sparse").find(dataset.name, data)


def find_items(dataset: Dataset, data: Folder = None) -> Path:
    """Find the ``metadata.csv`` of a known data set: in `data`, else ``$SAESTORE_SCRATCH``, else the current folder."""
    if dataset.items is not None:
        return Path(dataset.items)
    names = (dataset.name, f"Augmented_{dataset.name}")
    paths = [root / "Data" / name / "metadata.csv" for root in (*data_roots(data), Path()) for name in names]
    for path in paths:
        if path.is_file():
            return path
    searched = " nor ".join(map(str, paths))
    raise NotFoundError(f"no metadata for {dataset.name}: neither {searched} is there; give --items", code="no-items")


def find_token_counts(dataset: Dataset, data: Folder = None) -> Path | None:
    """Find the file with the token counts of each text; None where there is none."""
    return next((f / TOKEN_COUNTS for f in _truth_folders(dataset, data) if (f / TOKEN_COUNTS).is_file()), None)


def find_ground_truth(dataset: Dataset, data: Folder = None) -> Path | None:
    """Find the folder with the ground truth of items and samples; None where there is none."""
    if dataset.ground_truth is not None:
        return Path(dataset.ground_truth)
    return next((f for f in _truth_folders(dataset, data) if any(f.glob("gt_*_per_concept*.pt"))), None)


def _truth_folders(dataset: Dataset, data: Folder) -> list[Path]:
    return [root / "GT_Samples" / dataset.name for root in (*data_roots(data), Path())]
