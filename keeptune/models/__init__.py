"""Loading, the named places of each model family, adapter files, hidden states."""
