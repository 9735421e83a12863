"""A finished model: using it, exporting it, reading PyTorch weights."""
