"""Tenants, principals, rights, API keys and signing keys."""
