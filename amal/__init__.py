"""AMAL and MAPPO on StarCraft micromanagement, in an embedded battle simulator."""

import os

__version__ = "0.1.0"

# Matrix products must not depend on the number of threads. MKL reads this when it is first used, so it is set before
# anything here imports torch.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
