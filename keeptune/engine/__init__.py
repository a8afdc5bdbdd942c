"""What runs inside a forward pass: rows, deltas, packed batches, attention, generation."""
