"""The commands behind bin/*: flags in, exit code out. Each module imports JAX only inside its main()."""
