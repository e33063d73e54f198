"""Domains on a real libvirtd. The only importer of `libvirt`, a package of the distribution."""
