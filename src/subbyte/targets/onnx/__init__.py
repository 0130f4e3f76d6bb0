"""What several targets share of writing ONNX."""
