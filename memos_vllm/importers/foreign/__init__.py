"""Exports of other systems: ChatGPT, Claude, Mem0, MemOS.

file ─► kind, by its content ─► records (chats, facts, documents), what is left out
     └── in a process of its own (`parsing`), with limits ──┘
records ─► cubes (`importers.source`), conversations are read for claims (`learning.imported`)
"""
