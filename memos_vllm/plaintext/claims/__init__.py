"""Claims: folding new into known ones, validity in time, equivalence."""
