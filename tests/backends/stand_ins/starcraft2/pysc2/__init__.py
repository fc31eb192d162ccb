"""Stands in for PySC2, which SMAC finds StarCraft II and its maps with."""
