"""The contract of `prune`: `contract` says what is asked for, `matrix` how each matrix is judged."""
