"""Variance components by moments (Haseman-Elston), non-negative, at any n; and an exact REML as yardstick."""
