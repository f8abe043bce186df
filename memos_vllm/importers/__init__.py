"""Memory from elsewhere: files of other formats as cubes, and cubes as portable bundles."""
