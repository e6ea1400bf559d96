"""One file a transform."""
