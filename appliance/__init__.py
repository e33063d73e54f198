"""Kowabunga: SD-WAN and hyper-converged infrastructure in one executable."""
