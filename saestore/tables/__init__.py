"""The images or texts that samples come from, and which samples come from which."""

from saestore.tables.item_pointers import item_pointers, token_spans
from saestore.tables.items import SPLITS, Items, as_items

__all__ = ["SPLITS", "Items", "as_items", "item_pointers", "token_spans"]
