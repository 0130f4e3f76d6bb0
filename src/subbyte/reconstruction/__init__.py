"""Learning the rounding and the step sizes of one block after the other from its own outputs."""
