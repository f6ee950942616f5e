"""How workers agree: one Protocol, one adapter per library."""
