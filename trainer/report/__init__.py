"""Compares runs: which schedule reached the same accuracy with how many updates, and in what time."""
