"""What a sweep shows: its laws, frontiers, regimes, theory on planted data, and advice on the next budget."""
