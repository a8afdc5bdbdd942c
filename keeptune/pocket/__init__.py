"""The embedded base model, its task and its suite."""
