"""file-service: streamed uploads in, plain links out."""
