"""The rules: what an upload and a file are; no HTTP, no SQL."""
