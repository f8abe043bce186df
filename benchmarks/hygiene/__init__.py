"""Claims and prompts after a thousand turns of small talk, changing facts, jokes and injections."""
