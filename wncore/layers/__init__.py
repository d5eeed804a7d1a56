"""What is done with a layer's activations, whoever owns them: a dump, arrays in memory, a block of a running model."""
