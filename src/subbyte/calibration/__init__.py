"""What calibration images tell: ranges, gradients, corrections of biases."""
