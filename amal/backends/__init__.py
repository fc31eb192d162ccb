"""Other simulators than the embedded one: the original SMAC and the original SMAClite, each battle in a process of its
own. Worker processes import this package without the simulator or torch."""

BACKENDS = ("starcraft2", "smaclite")
