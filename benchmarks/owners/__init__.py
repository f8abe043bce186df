"""Many owners in one embedded Chroma store: cost and errors by layout.

Four layouts, each filled owner by owner (20 random unit vectors of 384 dimensions per owner) in one process,
then opened and searched in another:

    per_owner_unbounded  a collection per owner; every HNSW index that was opened stays open
    per_owner_bounded    the same with at most 128 open indexes
    buckets              ours (`memos_vllm.plaintext.search.vector_store.VectorIndex`), all owners
    buckets_two_views    the same as a server uses it: each item twice, alone and behind its predecessor

The first two slow down with the number of owners, so they are stopped early by default; the last is stopped
while all buckets are small and not yet on disk, the state that it measures.  The row names the number of
owners.  Random vectors are the worst case for a graph search with an owner filter, because the vectors of an
owner are not neighbours.
"""
