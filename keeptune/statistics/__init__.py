"""Paired tests, bootstrap, non-inferiority, power: numpy and scipy only."""
