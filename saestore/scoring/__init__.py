"""How well features predict concepts: ranks, scores, thresholds, and their intervals."""
