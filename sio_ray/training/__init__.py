"""One training loop for generator and classifier, with state that survives a kill, and its Ray Train edge."""
