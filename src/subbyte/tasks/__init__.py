"""What a model is for: how its outputs are read, scored and compared."""
