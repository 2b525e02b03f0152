"""What we claim about speed and size, runnable."""
