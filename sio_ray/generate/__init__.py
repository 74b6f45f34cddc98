"""Generation: a pure plan, a sampler, shards drawn exactly once by a pool of Ray actors, and their quality."""
