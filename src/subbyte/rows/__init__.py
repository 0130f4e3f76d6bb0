"""What a layer multiplies: rows of its inputs, their products, and sums over images of these."""
