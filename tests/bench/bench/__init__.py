"""The benchmark of docker-mirror against its peers and against a floor. Started by `tests/bench/run`."""
