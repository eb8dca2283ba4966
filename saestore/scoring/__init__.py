"""How well features tell concepts: ranks, scores, thresholds, and their intervals."""
