"""Forecasts from shapes alone: memory, minutes, disk, and the power of the proof. No weight is touched."""
