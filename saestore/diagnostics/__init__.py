"""Facts about a set beside what its SAE and its embeddings give, and findings where the facts contradict each other."""
