"""What the names of one research pipeline's files say of the SAE, and where it keeps them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saestore.errors import InvalidInputError
from saestore.formats.base import Opened
from saestore.formats.chunked import find_files

_NAME = re.compile(r"(?P<scope>clipscope|gemmascope)_(?P<type>patch|cls)_(?P<kind>sparse|filtered|dense)")

# The two SAEs of that pipeline.
_SAES: dict[str, dict[str, Any]] = {
    "clipscope": {"name": "clip-scope-22", "architecture": "topk", "d_sae": 1 << 16, "layer": 22},
    "gemmascope": {"name": "gemma-scope-9b-34-16k", "architecture": "jumprelu", "d_sae": 1 << 14, "layer": 34},
}


@dataclass(frozen=True)
class PipelineName:
    """A file's name, read.

    Attributes
    ----------
    scope, sample_type, kind
        ``clipscope`` or ``gemmascope``; ``patch`` (tokens too) or ``cls``; ``sparse``, ``filtered`` or ``dense``.
    """

    scope: str
    sample_type: str
    kind: str

    @classmethod
    def of(cls, base: str) -> PipelineName | None:
        """Read the name of a file; None where it is none of that pipeline."""
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
                f"name the set DATASET/{'cls' if self.sample_type == 'cls' else 'patch (or token)'}."
            )

    def beside(self, path: Path, kind: str) -> Path | None:
        """The sparse or filtered file (or list of chunks) of the same samples, where that pipeline has it."""
        name = {"sparse": "SAE_Activations_Sparse", "filtered": "SAE_Activations_Filtered"}[kind]
        folder = path.parent.parent.parent / name / path.parent.name
        found = sorted(folder.glob(f"{self.scope}_{self.sample_type}_{kind}*"))
        whole = [
            p for p in found if p.name.endswith("_chunks_info.json") or (p.suffix == ".pt" and "_chunk_" not in p.name)
        ]
        return whole[0] if len(whole) == 1 else None

    def mapping(self, path: Path) -> Path | None:
        """The unit mapping of a filtered or dense file, None where there is none."""
        name = f"{self.scope}_{self.sample_type}_filtered_unit_mapping.json"
        folders = [path.parent, path.parent.parent.parent / "SAE_Activations_Filtered" / path.parent.name]
        found = [folder / name for folder in folders if (folder / name).is_file()]
        return found[0] if found else None


def named(opened: Opened, path: Path, sample_type: str) -> Opened:
    """Add what the file's name says of the SAE to what the file itself says.

    Raises
    ------
    InvalidInputError
        The name says that it holds other samples than `sample_type`.
    """
    base = path.stem if path.suffix in (".npy", ".safetensors") or path.is_dir() else find_files(path).base
    name = PipelineName.of(base)
    if name is None:
        return opened
    name.check(sample_type, str(path))
    width = None if name.kind == "filtered" else int(name.sae["d_sae"])
    known = {k: v for k, v in name.sae.items() if k != "d_sae"}
    return replace(opened, n_features=opened.n_features or width, sae={**known, **opened.sae})
