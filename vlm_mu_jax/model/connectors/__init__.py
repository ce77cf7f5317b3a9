"""Connectors: a tower's states to image tokens, one file each behind the interface `connector.Connector`."""
