"""Hugging Face folders as a source of activations, block by block.

Read in this order.

* headers, names, ties     where the bytes of each parameter lie
* folder, parameters       a model whose parameters are read when they are wanted
* blocks, recording        the repeated blocks, and what each is called with
* stream                   hidden states on their way through the blocks, one block in memory
* products, positions      what is multiplied by a parameter while a block runs, and for which tokens
* linears                  the linear layers of a model, and the share of its parameters that they are
* text, windows            a text as tokens, and what is predicted from what
* forecast, memory         the memory that it takes: foretold, and measured
* held, written            what a block's layers read and give, in memory or on the disk
* opened, source           a model and a text as an owner of activations
* capture                  all of it as a dump
* evaluate                 perplexity
* huggingface              what the core asks for

    folder = open_folder("path/to/model", device="cuda")
    layers = find_linears(folder)
    for block in Stream(folder, batches(windows), layers).blocks():
        block.hand_on(lambda read: ...)  # read.layer, read.x (n, d), read.y (n, m), read.tokens (n,), read.batch

It is no backend: what is done with the activations is the core's, by whichever backend. Importing this package imports
neither torch nor transformers; importing one of its modules does.
"""

from wncore_torch.model.huggingface import HuggingFace

__all__ = ["HuggingFace"]
