"""What calibration images are used for: ranges, gradients, corrections of biases."""
