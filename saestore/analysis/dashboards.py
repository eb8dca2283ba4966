"""Dashboards of features, in the JSON that SAEDashboard writes for Neuronpedia."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.analysis.directions import decoder_of, logits
from saestore.analysis.examples import ExampleTable, examples
from saestore.errors import InvalidInputError, require
from saestore.files import read_json
from saestore.formats.base import Format, Written
from saestore.query.distribution import counts_of

if TYPE_CHECKING:
    from saestore.formats.selection import Selected
    from saestore.query.reader import SetReader

__all__ = ["write_dashboards"]

Array = np.ndarray[Any, Any]

_PARTS, _EXAMPLES, _CONTEXT = 10, 10, 64  # quantiles; examples of each, and of the strongest; tokens on either side
_BARS, _SIMILAR, _LOGITS = 40, 5, 10
_MOST_IDS = 1 << 24  # of a vocabulary; the largest have about 260,000
_AT_ONCE = 64  # features whose examples are in memory together
_LAYER = re.compile(r"\b(?:blocks|layers?|h)[._](\d+)")


@dataclass(frozen=True)
class _Unembedding:
    """Effects on logits: the SAE's directions, the unembedding, d_in x vocabulary, and the tokens."""

    decoder: Array
    matrix: Array
    tokens: list[str]

    def of(self, feature: int) -> dict[str, Any]:
        """The logits that a feature raises and lowers most, and the histogram of all."""
        tokens, effects, _ = logits(self.decoder, feature, (self.matrix, self.tokens), _LOGITS)
        n = len(tokens) // 2
        counts, edges = np.histogram(self.decoder[feature].astype(np.float64) @ self.matrix, _BARS)
        return {
            "pos_str": tokens[:n].tolist(),
            "pos_values": _short(effects[:n]),
            "neg_str": tokens[n:][::-1].tolist(),
            "neg_values": _short(effects[n:][::-1]),
            "logits_hist_data_bar_heights": counts.tolist(),
            "logits_hist_data_bar_values": _short((edges[1:] + edges[:-1]) / 2),
        }


def write_dashboards(selected: Selected, path: Path, unembedding: Any = None) -> Written:
    """Write the file that SAEDashboard's `NeuronpediaDashboardBatch` has, with the selected features and samples.

    Of each feature: its strongest samples and samples of each tenth of its active ones, the histogram of its
    activations, and the features most correlated with it; with an unembedding also the tokens whose logits it raises
    and lowers most. Memory: the decoder and the unembedding, a block of posting lists, and 64 features.
    """
    acts, ids = selected.acts, selected.feature_ids
    where = None if selected.samples is None else np.isin(np.arange(acts.shape[0]), selected.samples)
    effects = None if unembedding is None else _unembedding(acts, *unembedding)
    sizes = np.diff(acts.item_index.pointers())
    sae, source = acts.attributes.sae, acts.attributes.source
    layer = _LAYER.search(str(sae.get("hook_name") or ""))
    head = {
        "model_id": str(sae.get("model_name") or source.get("model") or ""),
        "layer": int(layer[1]) if layer else 0,
        "sae_set": str(sae.get("name") or acts.path.rpartition("/")[2]),
    }
    same = {
        "n_prompts_total": acts.n_items,
        "n_tokens_in_prompt": int(sizes.max(initial=0)),
        "dataset": acts.path.split("/")[0],
    }
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "features": [')
        for start in range(0, len(ids), _AT_ONCE):
            for number, feature in enumerate(_features(selected, ids[start : start + _AT_ONCE], where, effects), start):
                file.write(("," if number else "") + "\n" + json.dumps({**feature, **same}, ensure_ascii=False))
        file.write("\n]}\n")
    return Written((path.name,))


def _features(selected: Selected, ids: Array, where: Any, effects: _Unembedding | None) -> list[dict[str, Any]]:
    acts = selected.acts
    table = examples(
        acts, ids, quantiles=_PARTS, n=_EXAMPLES, random=0, near_misses=0, context=_CONTEXT, where=where
    )  # fmt: skip
    view, written = acts.view("sample", where), {}
    for lists in view.lists(ids):
        for i, feature in enumerate(lists.features.tolist()):
            values = lists.data[lists.indptr[i] : lists.indptr[i + 1]].astype(np.float64)
            selected.nnz += len(values)
            written[feature] = {
                "feature_index": feature,
                "frac_nonzero": len(values) / view.n,
                **_bars(values),
                **_similar(acts, feature, where),
                **({} if effects is None else effects.of(feature)),
                "activations": _activations(acts, table, np.flatnonzero(table.feature == feature), values),
            }
    return [written[feature] for feature in ids.tolist()]


def _bars(values: Array) -> dict[str, Any]:
    counts, edges = counts_of(values, 0, _BARS, None) if len(values) else (np.zeros(0, int), np.zeros(1))
    centres = (edges[1:] + edges[:-1]) / 2
    return {"freq_hist_data_bar_heights": counts.tolist(), "freq_hist_data_bar_values": _short(centres)}


def _similar(acts: SetReader, feature: int, where: Any) -> dict[str, Any]:
    """The features most correlated with one, with their correlations and cosines."""
    best = acts.similar(feature, _SIMILAR, "correlation", where=where)
    cosines = acts.similar(feature, acts.shape[1], "cosine", where=where)
    cosine = dict(zip(cosines.feature.tolist(), cosines.score.tolist(), strict=True))
    return {
        "correlated_features_indices": best.feature.tolist(),
        "correlated_features_pearson": _short(best.score),
        "correlated_features_l1": _short([cosine[other] for other in best.feature.tolist()]),
    }


def _activations(acts: SetReader, table: ExampleTable, rows: Array, values: Array) -> list[dict[str, Any]]:
    """Examples: of the strongest samples ``bin_min`` is -1, else the bin is a tenth of the active samples."""
    ends, found = np.arange(_PARTS + 1) * len(values) // _PARTS, []
    for row in rows.tolist():
        part = int(table.quantile[row])
        if table.kind[row] == "top":
            bins = (-1.0, float(values[0]), -1.0)
        elif part >= 0:
            first, last = int(ends[part]), int(ends[part + 1])
            bins = (float(values[last - 1]), float(values[first]), (last - first) / len(values))
        else:
            continue
        found.append(
            {
                **dict(zip(("bin_min", "bin_max", "bin_contains"), _short(bins), strict=True)),
                "tokens": _tokens(acts, table, row),
                "values": _short(table.activations[row]),
                "qualifying_token_index": int(table.sample[row] - table.start[row]),
            }
        )
    return found


def _tokens(acts: SetReader, table: ExampleTable, row: int) -> list[str]:
    """The texts of the tokens of a window, else their ids, else their positions."""
    if table.tokens[row] is not None:
        return list(table.tokens[row])
    start, n = int(table.start[row]), len(table.activations[row])
    if "token" in acts.table("samples").info.columns:
        return [str(each) for each in acts.read_column("samples", "token", slice(start, start + n)).values.tolist()]
    first = int(table.position[row]) - (int(table.sample[row]) - start)
    return [str(each) for each in range(first, first + n)]


def _unembedding(acts: SetReader, matrix: Any, tokens: Any) -> _Unembedding:
    decoder = decoder_of(acts, None)
    if isinstance(matrix, str | os.PathLike):
        require("torch", "sae", "reading an unembedding")
        from saestore.embeddings.opening import open_embeddings

        source = open_embeddings(matrix)
        matrix = source.read(0, source.n_rows)
    if hasattr(matrix, "detach"):
        matrix = matrix.detach().cpu().float().numpy()
    texts = _vocabulary(tokens)
    values = np.asarray(matrix)
    if values.shape == (len(texts), decoder.shape[1]):  # as a model's lm_head has it
        values = values.T
    if values.shape != (decoder.shape[1], len(texts)):
        raise InvalidInputError(
            f"the unembedding is {' x '.join(map(str, values.shape))}; it needs d_in {decoder.shape[1]:,} x "
            f"{len(texts):,} tokens.",
            code="wrong-unembedding",
        )
    return _Unembedding(decoder, values, texts)


def _vocabulary(given: Any) -> list[str]:
    """The text of each token id."""
    where = "the vocabulary"
    if isinstance(given, str | os.PathLike):
        where, given = str(given), read_json(given)
    if isinstance(given, Mapping) and isinstance(given.get("model"), Mapping):  # tokenizer.json
        given = given["model"].get("vocab")
    if isinstance(given, Mapping) and all(type(number) is int and number < _MOST_IDS for number in given.values()):
        texts = {number: text for text, number in given.items()}
        given = [str(texts.get(number, "")) for number in range(max(texts, default=-1) + 1)]
    if not isinstance(given, list | tuple | np.ndarray) or not all(isinstance(text, str) for text in given):
        message = f"{where} is not a list of texts, nor a mapping of texts to ids."
        raise InvalidInputError(message, code="bad-vocabulary")
    return list(given)


def _short(values: Any) -> list[float]:
    """Numbers with as many digits as float32 has."""
    return [float(f"{value:.7g}") for value in np.asarray(values, np.float64).tolist()]


FORMATS = (Format("neuronpedia", write=write_dashboards, options=("unembedding",)),)
