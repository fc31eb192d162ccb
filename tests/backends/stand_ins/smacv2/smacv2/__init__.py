"""Stands in for the original SMACv2."""
