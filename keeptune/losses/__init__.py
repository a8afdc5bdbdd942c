"""Plain functions from hidden states and row indices to a loss."""
