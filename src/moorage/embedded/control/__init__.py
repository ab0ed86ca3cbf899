"""What makes the embedded cluster live: controllers, scheduler and garbage collector, each a pure decision over a snapshot and one thin runtime."""
