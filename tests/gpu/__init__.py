"""What needs a GPU: `make test-gpu`. The builder of random models is tried on the CPU by `make test`."""
