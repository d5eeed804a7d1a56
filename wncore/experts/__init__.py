"""Sparse experts: a layer's inputs are clustered, and a copy of its weights is pruned for each cluster.

Read in this order; source: arXiv:2405.15756, section 5.

* router, experts               where a token goes, and the layer that it goes through
* fitting, balance              principal components and k-means (`wncore.clustering`); clusters of equal size
* starvation                    what clusters with few tokens borrow, and when they are merged
* pruned, losses                all experts pruned on their own tokens; what that costs
* disentanglement, association  is a neuron less entangled within clusters; what predicts who gains
* expansion, runs, layers, results   what is asked for, the layers of an input, those of a dump, the document on them
* tokens                        routing all tokens of a dump
* packing, digests, document, stored, files       the file of experts
* conditions, borderline, allowances, recomputation, verification     the file proved again

n tokens, d inputs, m neurons, k experts, r components.
"""
