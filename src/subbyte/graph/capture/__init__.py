"""From a model to a graph of plain operators."""
