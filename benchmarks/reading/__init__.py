"""Reading: what is kept of what people say, in eight languages, and whether the newest of it wins."""
