"""Whole detectors in one file: from images to boxes, with operators of fixed shape."""
