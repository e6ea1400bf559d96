"""Headrace moves rows from databases, files and APIs into tables, exactly once.

Read the packages in this order: `model` (the nouns), `connector` (what a connector author imports),
`connectors` (one folder a system), `engine` (one run), `store` (what is remembered), `control` (what
people do), `cli`. Imports only go down that list from the end to the start.
"""

from importlib.metadata import version

__version__ = version("headrace")
