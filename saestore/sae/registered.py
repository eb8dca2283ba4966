"""SAEs that have a short name of their own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Registered:
    """Where the hub keeps a registered SAE.

    Attributes
    ----------
    repo, file
        The hub's repository, and the file in it that holds the weights.
    release, sae_id
        What sae_lens calls it; None for a CLIP-Scope checkpoint.
    model
        The hub's name of the model that it was trained on, where the SAE itself has another for it.
    """

    repo: str
    file: str
    release: str | None = None
    sae_id: str | None = None
    model: str | None = None


REGISTERED = {
    "clip-scope-22": Registered("lewington/CLIP-ViT-L-scope", "22_resid/1200013184.pt"),
    "gemma-scope-9b-34-16k": Registered(
        "google/gemma-scope-9b-pt-res",
        "layer_34/width_16k/average_l0_114/params.npz",
        release="gemma-scope-9b-pt-res-canonical",
        sae_id="layer_34/width_16k/canonical",
        model="google/gemma-2-9b",
    ),
}
