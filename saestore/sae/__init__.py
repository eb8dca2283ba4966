"""SAEs in: from a folder, a CLIP-Scope checkpoint, the hub, or an object in memory.

Everything here needs torch; sae_lens is imported only when one of its SAEs is loaded.
"""

from saestore.sae.load import REGISTERED, load_sae
from saestore.sae.loaded import LoadedSAE

__all__ = ["REGISTERED", "LoadedSAE", "load_sae"]
