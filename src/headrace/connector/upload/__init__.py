"""Uploaded files: told by their content, profiled as a whole, and read again to be imported.

Everything here that parses runs in a process of its own with little memory (`process`), since files are
not to be trusted.
"""
