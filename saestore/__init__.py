"""saestore: a Zarr-backed store for sparse autoencoder activations, with a query API."""
