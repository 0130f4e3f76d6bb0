"""The smallest or fastest file that loses at most so much: which layer gets how many bits.

`sensitivity` measures what each layer loses at each width, `costs` what it costs there, `choose`
solves the integer programme, `loop` builds and measures what was chosen and solves again, `budget`
judges a drop, and `search` puts them together.
"""
