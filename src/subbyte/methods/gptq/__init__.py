"""Layer-wise least squares: integers and scales of each layer for what it reads."""
