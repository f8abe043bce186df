"""Documents: uploads and imported files, parsed in processes of their own with limits."""
