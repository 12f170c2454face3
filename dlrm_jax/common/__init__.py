"""Modules that every package of the suite uses: flags, records, progress, signals to stop, random words, figures."""
