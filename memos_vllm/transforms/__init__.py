"""One kind of memory made from another, each by a job with its provenance (the paper's Figure 5)."""
