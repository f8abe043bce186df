"""Planning of KV: which segments of a prompt are loaded, built, prefetched and promoted."""
