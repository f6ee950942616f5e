"""Sweeps: grids of runs, one after the other, taken up again where they stopped."""
