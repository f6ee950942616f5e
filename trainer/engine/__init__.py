"""The loop: decide, train, evaluate, record, save."""
