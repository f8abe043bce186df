"""The memory console: pages that show what is remembered, why, and what it cost."""
