"""One folder a system: its SPEC, source, target and types."""
