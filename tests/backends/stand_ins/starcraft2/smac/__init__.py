"""Stands in for the original SMAC, which cannot be installed where the tests run."""
