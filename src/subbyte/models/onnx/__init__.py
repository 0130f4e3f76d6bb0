"""ONNX files as models: reading, normalizing, and translating to PyTorch.

`load.py` is the whole way. `reading.py` makes a `Network` of a file, `constants.py`, `linears.py`
and `fusions.py` normalize it, `translate.py` makes an `OnnxModule` of it, and `batch.py` sees to it
that any batch size runs. `operators/` has one file for each group of operators.
"""
