"""Compiled kernels: numbers in, numbers out; noise is an argument. Slow NumPy twins are in tests/reference."""
