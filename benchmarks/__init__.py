"""Speed and tightness, measured; results as JSON lines."""
