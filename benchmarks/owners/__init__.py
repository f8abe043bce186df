"""What it costs to keep many owners apart in an embedded Chroma store.

Four layouts, each filled with owners of 20 random unit vectors (384 dimensions), owner by owner, in
a process of its own, then opened and searched in another:

    per_owner_unbounded  a collection for each owner; every HNSW index that was opened stays open
    per_owner_bounded    the same with at most 128 indexes open
    buckets              ours (`memos_vllm.plaintext.search.vector_store.VectorIndex`), all owners
    buckets_two_views    the same as a server uses it: each item twice, alone and behind its window

The first two slow down with the number of owners, so they are stopped early by default; so is the
last, which is there to show small indexes, not yet on disk, in all buckets at once.  The row says at
how many.  Random vectors are the worst case for a graph search that filters by owner: nothing
about an owner's vectors makes them neighbours.
"""
