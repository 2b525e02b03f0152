"""HTTP in, HTTP out: translates requests onto the two doors of the core."""
