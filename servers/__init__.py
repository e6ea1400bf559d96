"""Real servers, started on this machine for the tests, the demo and the benchmarks, and thrown away after."""
