"""The prompt: chat messages in, quoted memory and its layout out."""
