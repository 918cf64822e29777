"""One file per data set of the suite; each holds a `DATASET`. Nothing is registered by hand."""
