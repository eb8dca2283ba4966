"""Is a set what its SAE gives of the embeddings it was trained for? The numbers, and the signs that it is not."""
