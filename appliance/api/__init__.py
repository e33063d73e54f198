"""HTTP and WebSocket edge of Kahuna; the only home of Litestar. No SQL, no driver."""
