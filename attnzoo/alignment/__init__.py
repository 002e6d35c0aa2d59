"""Word alignment: links, extraction from attention weights, symmetrisation, scores."""
