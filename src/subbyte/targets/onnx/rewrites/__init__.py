"""Rewrites of an exported graph, one a file: each changes how it is written and no value."""
