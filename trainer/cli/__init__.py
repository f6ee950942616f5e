"""The command `trainer`: the composition root, the only place that knows every class."""
