"""Embeddings in: from every layout that people have to rows of a tensor."""
