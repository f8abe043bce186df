"""Adding under the audit log by many writers of one tenant."""
