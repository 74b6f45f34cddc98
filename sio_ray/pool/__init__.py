"""A pool of Ray actors that does units of work, each exactly once, whatever dies on the way."""
