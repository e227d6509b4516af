"""Runs are planned, trained, recorded, resumed and repeated, one or many at a time."""
