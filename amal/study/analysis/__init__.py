"""What a study's runs come to: scores, intervals and tests."""

RESAMPLES = 2000  # of every interval; report --help tells it, and need not wait for scipy
