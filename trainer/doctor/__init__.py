"""What this machine has for training, what is missing, and what to do about it: the answers of `trainer doctor`."""
