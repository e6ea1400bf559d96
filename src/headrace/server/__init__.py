"""The process that others call: its dialects side by side on one port."""
