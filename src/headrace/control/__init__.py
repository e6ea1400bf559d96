"""What people do: check and discover connections, keep pipelines, run them, look at what happened."""
