"""Commands of `sio-ray` that are no stage, one file per group."""
