"""What writes and checks the reference pages."""
