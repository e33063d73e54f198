"""Local storage pools: a directory of sparse image files on one node, driven through qemu-img."""
