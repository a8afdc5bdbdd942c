"""Values and rules that need neither torch nor transformers."""
