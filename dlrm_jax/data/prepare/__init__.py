"""Turns a click log into a data set: pieces of the log to rows on disk (first pass), then to Parquet shards with ids (second pass)."""
