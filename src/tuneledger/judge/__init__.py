"""How good is a classifier, and how sure are we: pure functions on arrays."""
