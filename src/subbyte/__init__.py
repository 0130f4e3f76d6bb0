"""Subbyte: quantization of image classifiers and detectors, with proof."""
