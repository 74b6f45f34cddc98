"""Generation: a pure plan, samplers, and shards drawn exactly once by a pool of Ray actors."""
