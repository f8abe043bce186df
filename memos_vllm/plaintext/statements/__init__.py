"""Lasting statements of a person about themselves, found without a parser, in any language."""
