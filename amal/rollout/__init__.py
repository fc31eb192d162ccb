"""How episodes are played, by whom, against whom, and what is measured of them."""
