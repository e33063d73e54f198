"""The demo: one command, one real virtual machine. `./build.sh demo` runs it."""
