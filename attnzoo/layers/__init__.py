"""What surrounds attention: embeddings, recurrent cells, feed-forward layers, blocks, stacks."""
