"""What an adapter knows that was trained from cubes of text."""
