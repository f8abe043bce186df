"""Many owners in one embedded Chroma store: cost and errors by layout.

Three layouts, each filled owner by owner (20 random unit vectors of 384 dimensions per owner) in one process,
then opened and searched in another:

    per_owner_unbounded  a collection per owner; every HNSW index that was opened stays open
    per_owner_bounded    the same with at most 128 open indexes
    buckets              ours (`memos_vllm.plaintext.search.vector_store.VectorIndex`), all owners

The first two slow down with the number of owners, so they are stopped early by default.  The row names the
number of owners.  Random vectors are the worst case for a graph search with an owner filter, because the vectors of an
owner are not neighbours.
"""
