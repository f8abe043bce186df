"""Cost of grants: lists, searches and prompts of a tenant with 10,000 cubes, and Cedar beside them."""
