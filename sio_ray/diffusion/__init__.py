"""The generator: a class-conditional UNet with EDM preconditioning, its loss, and its diffusers pipeline."""
