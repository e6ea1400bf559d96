"""The command line: one file a command group, over `headrace.control`."""
