"""A search over the scales of a whole network."""
