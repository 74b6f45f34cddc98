"""What `benchmarks/chaos.py` does to running work, and how it finds out whether that cost anything."""
