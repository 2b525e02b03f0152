"""Where rows live; the catalogue alone decides what exists."""
