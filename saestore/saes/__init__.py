"""SAEs in: from a folder, a CLIP-Scope checkpoint, the hub, or an object in memory.

Everything here needs torch; sae_lens is imported when an SAE of its own is loaded, and not before.
"""

from saestore.saes.load import load_sae
from saestore.saes.loaded import LoadedSAE
from saestore.saes.registered import REGISTERED

__all__ = ["REGISTERED", "LoadedSAE", "load_sae"]
