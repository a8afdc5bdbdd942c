"""The certificate page and its figures; reads a run folder."""
