"""The MemCube: one header and one payload, for every kind of memory."""
