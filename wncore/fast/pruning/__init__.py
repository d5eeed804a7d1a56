"""The pruning operations of the "numba" backend; each module is the fast twin of one of `wncore.pruning`.

* selection            which weights of a cell are the lowest, without sorting them all
* factor               a Gram matrix made safe to factorise, and its triangular factor
* sweep                SparseGPT
* greedy               Optimal Brain Surgeon
* least_squares        the best weights for any mask
* alternating          ADMM
* methods              all of them behind one function, `prune`

Matrix products are BLAS on one thread, for a tile of rows; threads share out the tiles.
"""
