"""Numbers: integer formats, scales and zero points, histograms, range rules."""
