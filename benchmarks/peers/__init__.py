"""The peers that the benchmarks measure against, each in a process and an environment of its own."""
