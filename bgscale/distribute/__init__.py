"""Running units of work: the only folder that knows Dask."""
