"""What surrounds attention: embeddings, recurrent cells, feed-forward layers, norms."""
