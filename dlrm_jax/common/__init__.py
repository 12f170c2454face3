"""What every part of the suite uses and what depends on none of them: flags, records, progress, signals, random words, figures."""
