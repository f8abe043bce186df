"""Time of each page of the console, in a tenant with 10,000 cubes."""
