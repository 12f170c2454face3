"""`python -m analysis.report`: the tables, figures and offline page of a sweep."""
