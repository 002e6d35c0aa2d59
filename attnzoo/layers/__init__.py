"""Layers around attention: embeddings, recurrent cells, feed-forward layers, blocks, stacks."""
