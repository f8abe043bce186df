"""The English language pack: extraction rules for statements, events and times; word forms."""
