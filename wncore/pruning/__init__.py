"""Pruning a linear layer by its weights and the Gram matrix of its inputs; read in this order.

* patterns, cells      which zeros are asked for, and how many each comparison group loses
* damping, loss        a Gram matrix made safe to factorise; what pruning costs
* scores               magnitude and Wanda: each weight alone
* greedy               Optimal Brain Surgeon: one weight at a time, the others make up for it
* sweep                SparseGPT: one pass over the columns, with or without quantisation
* least_squares        the best weights for any mask
* alternating          ADMM: moves the mask, too
* methods              all of them behind one function, `prune`

m neurons, d inputs, k experts, p patterns. H is the sum of x x' over tokens, in any unit. Masks are True where a weight
is kept.
"""
