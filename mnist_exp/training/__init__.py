"""A recipe is trained, epoch after epoch: what is computed, and nothing of what becomes of it."""
