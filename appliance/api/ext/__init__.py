"""Routes of `/api/ext/v1`: what the contract does not know. Thin: parse, call a service, answer."""
