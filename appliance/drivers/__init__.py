"""The only importers of native libraries; they speak in Structs of `model`, errors of `core`."""
