"""Where quantizers stand, and the simulation that has them."""
