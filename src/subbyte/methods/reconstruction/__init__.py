"""Learning one block after the other from its own outputs."""
