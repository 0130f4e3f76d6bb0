"""Structure: how a model is captured, and what its regions, layers and blocks are."""
