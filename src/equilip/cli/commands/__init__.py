"""One command per file: ``NAME.py`` (``import_.py`` for a Python keyword) is ``equilip NAME``.

Each holds a docstring, whose first line stands in ``equilip --help``, and two functions:

    arguments(parser)       adds the command's own options (``options.add_data`` for data, ``options.add_fields``
                            for a dataclass); --json, --seed, --device and --debug are added to every command
    run(options, output)    does the work, shows it through ``output`` and returns the exit status

Torch and all that needs it is imported inside ``run``, so that ``--help`` answers at once.
"""
