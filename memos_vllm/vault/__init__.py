"""MemVault: storage of all cubes. Records in SQL, payloads in content-addressed files."""
