"""Click logs: from files to shards (`prepare`), and from shards to batches (`pipeline`)."""
