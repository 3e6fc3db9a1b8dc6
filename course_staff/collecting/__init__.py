"""Collecting what learners hand in: their exercise cells, run behind bars, against the checks."""
