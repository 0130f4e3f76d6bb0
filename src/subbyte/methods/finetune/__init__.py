"""Fine-tuning of scales, biases and integers by gradients."""
