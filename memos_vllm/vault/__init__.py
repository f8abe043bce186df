"""MemVault: the truth about every cube. Records in SQL, payloads in content-addressed files."""
