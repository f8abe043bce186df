"""What a start costs, and the first chat behind it."""
