"""One run, in this order: plan, read, transform, write, commit, retry; `run` joins them."""
