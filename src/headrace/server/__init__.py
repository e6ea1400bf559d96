"""The server: its doors on the network, its logs, and how it starts and stops."""
