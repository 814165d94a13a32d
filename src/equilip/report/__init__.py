"""The HTML report of runs, and its plots.

:mod:`equilip.report.plots` draws lines and points as SVG that follows the reader's light or dark scheme; it knows
nothing of runs, so that others can draw with it.
"""
