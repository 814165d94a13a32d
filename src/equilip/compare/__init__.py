"""Every family of networks on one data set, at equal numbers of parameters and equal training time.

Each network is an ordinary run directory. :mod:`~equilip.compare.families` says what each family is,
:mod:`~equilip.compare.plan` how large and how long, :mod:`~equilip.compare.measure` what is measured of each.
"""
