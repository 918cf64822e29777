"""One file per network of the suite, named as the network; each holds a `NETWORK`. Nothing is registered by hand."""
