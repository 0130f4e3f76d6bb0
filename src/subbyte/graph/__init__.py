"""Structure: how a model is captured, what its layers are, and where its quantizers stand."""
