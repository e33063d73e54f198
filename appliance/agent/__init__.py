"""The node's side of the protocol: dial out, check fences, dispatch to drivers."""
