"""Numbers: what a grid is, how a tensor is put on it, how its range is chosen."""
