"""What `trainer plan` asks, works out and shows: one plan, or several beside each other."""
