"""Fitters: they take a Design and frozen options, and know nothing of each other."""
