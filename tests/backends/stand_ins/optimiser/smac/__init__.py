"""Has the name of PyPI's hyper-parameter optimiser, and like it no ``smac.env``."""
