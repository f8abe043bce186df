"""The MemCube: one header and one payload, whatever the kind of memory."""
