"""Configurations of Intel's Distiller (archived in 2023) as experiments of Subbyte.

`config` reads its keys, `options` the options of its command line, `names` finds the operations
that its patterns mean, `translate` says what they mean in a recipe, and `document` writes it down.
"""
