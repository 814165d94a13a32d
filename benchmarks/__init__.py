"""How fast equilip is, next to the textbook iteration, torchdeq, a plain network, and its own other solvers.

Run by ``make bench``, never by ``make test``. What is timed against what, and why, stands in docs/benchmarks.md.
"""
