"""The nouns: frozen values without I/O, which import nothing of ours but errors."""
