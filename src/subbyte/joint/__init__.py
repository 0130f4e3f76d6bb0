"""Searching the grids of a whole network at once, by the loss of its outputs."""
