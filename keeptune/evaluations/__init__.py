"""One file per measurement; each gives scores with their per-item records."""
