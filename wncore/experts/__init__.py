"""Sparse experts: a linear layer split by clustering its inputs, each part pruned on its own tokens."""
