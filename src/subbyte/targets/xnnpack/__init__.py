"""What the target `executorch` knows of XNNPACK: placement, lowering, files and their kernels."""
