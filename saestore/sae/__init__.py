"""SAEs in: from a folder, a CLIP-Scope checkpoint, the hub, or an object in memory.

Everything here needs torch; sae_lens is imported when an SAE of its own is loaded, and not before.
"""

from saestore.sae.load import load_sae
from saestore.sae.loaded import LoadedSAE
from saestore.sae.registered import REGISTERED

__all__ = ["REGISTERED", "LoadedSAE", "load_sae"]
