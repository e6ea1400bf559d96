"""Connectors that are described before they exist: settings can be checked and kept, nothing is opened."""
