"""Connectors of our own that speak the Airbyte protocol, and the wheels that bring them."""
