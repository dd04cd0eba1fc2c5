"""The data path under every fault: the product's own code over services in memory, in turns that a seed decides."""
