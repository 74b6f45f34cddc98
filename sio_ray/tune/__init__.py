"""The Ray edge of the search: trials in processes that share image sets, played through Ray Tune."""
