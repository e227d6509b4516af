"""A verdict is what all counting runs of an iteration have in common.

From what the store holds: the scores of each run, whether it counts, whether it meets the target,
and which step made a difference.
"""
