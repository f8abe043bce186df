"""Claims: folding new statements into known ones, validity in time, sameness."""
