"""Synthetic phantoms, data sets of them, and demos."""
