"""Many kernels: the same experiment on each of them."""
