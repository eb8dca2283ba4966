"""The list of SAEs that sae_lens knows by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saestore.sae.sae_lens import import_sae_lens

_WIDTH = re.compile(
    r"width[_-](?P<n>\d+)(?P<unit>[km]?)|2pow(?P<power>\d+)|(?:^|[-_])w-?(?P<thousands>\d+)k"
    r"|(?:hook_[a-z_]+_|_ds)(?P<exact>\d{3,})(?![\dA-Za-z])",
    re.IGNORECASE,
)
_WIDTH_AT_END = re.compile(r"[-_](?P<n>\d+)(?P<unit>[km])(?:__|$)", re.IGNORECASE)  # of Neuronpedia's ids and releases
_L0 = re.compile(r"l0[_-](\d+)", re.IGNORECASE)
_LAYER = re.compile(r"(?:layers?[_.]?|blocks\.|(?<![A-Za-z])L)(\d+)")


@dataclass(frozen=True)
class Release:
    """One SAE of sae_lens's directory; None where neither directory nor names say it."""

    name: str  # ``release:sae_id``
    # The model, the number of the block, the number of features, and the mean number of active features
    model: str
    layer: int | None
    width: int | None
    l0: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return dict(vars(self))


def find_releases(words: Sequence[str] = ()) -> Iterator[Release]:
    """SAEs whose release, id or model contain all words, in upper or lower case.

    Layer, width and L0 are those in the names and in sae_lens's directory; a width that is in neither is read from the
    SAE's configuration, if that is in the hub's cache or in sae_lens itself. Nothing is downloaded.
    """
    import_sae_lens()
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    wanted = [word.lower() for word in words]
    for release, about in sorted(get_pretrained_saes_directory().items()):
        for sae_id, folder in about.saes_map.items():
            text = f"{release}:{sae_id} {about.model} {folder}"
            if all(word in text.lower() for word in wanted):
                expected = float(about.expected_l0.get(sae_id) or 0)
                named = _L0.search(folder) or _L0.search(sae_id)
                layer = _LAYER.search(sae_id) or _LAYER.search(folder)
                width = _WIDTH.search(f"{text} {about.repo_id}")
                for other in (about.neuronpedia_id.get(sae_id) or "", release):
                    width = width or _WIDTH_AT_END.search(other)
                yield Release(
                    f"{release}:{sae_id}",
                    str(about.model),
                    None if layer is None else int(layer[1]),
                    _configured(release, sae_id) if width is None else _width(width.groupdict()),
                    expected or (None if named is None else float(named[1])),
                )


def _configured(release: str, sae_id: str) -> int | None:
    """The width in an SAE's own configuration, without downloading it."""
    import huggingface_hub.constants as hub
    from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

    online, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    try:
        return int(load_sae_config_from_huggingface(release, sae_id)["d_sae"])
    except (OSError, ValueError, KeyError, TypeError):  # not in the cache, or of no known form
        return None
    finally:
        hub.HF_HUB_OFFLINE = online


def _width(sizes: Mapping[str, str | None]) -> int:
    exact, thousands = sizes.get("exact"), sizes.get("thousands")
    if exact or thousands or sizes.get("power"):
        return int(exact or 0) or int(thousands or 0) << 10 or 1 << int(sizes["power"] or 0)
    size = int(sizes["n"] or 0) * {"": 1, "k": 1000, "m": 1_000_000}[(sizes["unit"] or "").lower()]
    # Gemma Scope's 16k, 131k and 1m are powers of two, rounded.
    return 1 << round(math.log2(size)) if sizes["unit"] else size
