"""The English language pack: what rules read out of English sentences, and word forms."""
