"""Other simulators than the embedded one: the original SMAC, SMACv2 and SMAClite, each battle in a process of its own.
Worker processes import this package without the embedded simulator or torch."""

BACKENDS = ("starcraft2", "smacv2", "smaclite")
