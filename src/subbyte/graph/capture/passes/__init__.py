"""Rewrites of a captured graph, one file each."""
